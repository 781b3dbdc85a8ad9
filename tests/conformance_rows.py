"""The rows of test_conformance.py: every algorithm, with what it lets expect."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

FINAL = 0.6


class Row(NamedTuple):
    """Options of an algorithm, and what they let expect."""

    options: Mapping[str, Any] = MappingProxyType({})
    final: float | None = FINAL  # the target after the last round, if there is one
    # the first round after which the model has exactly the target, if there is one
    exact_from: int | None = 1
    starts_dense: bool = True  # nothing is pruned before round 2
    monotone: bool = True  # what is pruned stays pruned
    drawn_client: bool = False  # looks at the data of a client drawn by number
    one_rounding_more: bool = False  # than FedAvg: divides by the share of the holders
    as_fedavg: bool = True  # clients train as in FedAvg, all their epochs in a row
    masks_travel: bool = False  # kept zeros are in the bytes
    sent_the_same: bool = True  # all clients are, or each another model
    counted: int = 43  # parameters that the sparsity is of; 32 are in kernels
    sends_more: int = 0  # numbers that a client sends beside its model in round 1
    besides: int = 0  # numbers of the state beside parameters and statistics
    grows: bool = False  # round 1 has a head in the place of the last layer
    # also over a mesh and on a convolutional network, which take long to compile
    long: bool = True


KEPT_MOMENTUM = {"momentum": 0.9, "optimizer_state": "kept"}
TOP_K = {"upload_compression": "topk", "topk_fraction": 0.3}
INT4 = {"upload_compression": "int4", "error_feedback": True}
LARS = {"optimizer": "lars", "trust_coefficient": 0.1}
NOISE = {"gradient_point": "noise", "gradient_radius": 0.1}
SHARED = {
    *KEPT_MOMENTUM,
    *TOP_K,
    *LARS,
    *NOISE,
    "powerprop",
}  # options that change FedAvg too
PRUNEFL: Any = {"monotone": False, "drawn_client": True, "masks_travel": True}
LOCAL: Any = {"exact_from": None, "masks_travel": True}
HALO: Any = {"xi": 1e-2, "psi": 1e-2, "penalty_rate": 0.1}
PROGFED: Any = {"monotone": False, "as_fedavg": False, "grows": True}
RIGL: Any = {"starts_dense": False, "monotone": False, "masks_travel": True}
FEDDST: Any = {
    "starts_dense": False,
    "monotone": False,
    "one_rounding_more": True,
    "masks_travel": True,
}
PERSONAL: Any = {"final": None, "masks_travel": True, "sent_the_same": False}
# One pruned weight of every kernel at least is grown in a round.
FEDTINY: Any = {"interval": 1, "alpha": 1.0, "adjust_until": 4, "blocks": 2}
GROWN: Any = {"starts_dense": False, "monotone": False, "masks_travel": True}
# Names are those of the registry, with a variant after a comma.
ROWS = {
    "fedavg": Row(final=None),
    "fedavg, momentum": Row(KEPT_MOMENTUM, final=None, long=False),
    "fedavg, powerprop": Row({"powerprop": 1.5}, final=None, long=False),
    "fedavg, lars": Row(LARS, final=None, long=False),
    "fedavg, noise": Row(NOISE, final=None, drawn_client=True, long=False),
    "fedprox": Row({"mu": 0.1}, final=None),
    "fedopt": Row({"server_optimizer": "yogi"}, final=None),
    "fedsparsify-global": Row(),
    "fedsparsify-global, momentum": Row(KEPT_MOMENTUM, long=False),
    "fedsparsify-global, powerprop": Row(
        {"powerprop": 1.5, **KEPT_MOMENTUM}, long=False
    ),
    "fedsparsify-global, past": Row({"gradient_point": "past"}, long=False),
    "fedsparsify-global, lars and sam": Row(
        {"gradient_point": "sam", **LARS}, long=False
    ),
    "fedsparsify-global, layer": Row({"scope": "layer"}, exact_from=None, long=False),
    "fedsparsify-global, erk": Row({"scope": "erk"}, long=False),
    "fedsparsify-global, topk": Row(TOP_K, long=False),
    # A client's draws for rounding are by its number.
    "fedsparsify-global, int4": Row(INT4, drawn_client=True, long=False),
    "fedsparsify-global, movement": Row({"criterion": "movement"}, long=False),
    "fedsparsify-global, taylor": Row({"criterion": "taylor"}, long=False),
    "fedsparsify-local": Row(**LOCAL),
    "fedsparsify-local, fisher": Row({"criterion": "fisher"}, long=False, **LOCAL),
    "fedsparsify-local, strict": Row({"vote_rule": "strict"}, long=False, **LOCAL),
    "fedsparsify-local, nonzero": Row(
        {"merge": "nonzero"}, one_rounding_more=True, long=False, **LOCAL
    ),
    "fedsparsify-local, no vote": Row({"vote_rule": "none"}, long=False, **LOCAL),
    "fedsparsify-plus": Row(),
    "random-pruning": Row(),
    "one-shot": Row({"at": 2}),
    "snip": Row(starts_dense=False, drawn_client=True),
    "snip, cohort": Row({"source": "cohort"}, starts_dense=False, long=False),
    "grasp": Row({"source": "cohort"}, starts_dense=False, counted=32),
    "grasp, all": Row(
        {"source": "cohort", "prunable": None}, starts_dense=False, long=False
    ),
    "synflow": Row({"iterations": 4}, starts_dense=False, counted=32),
    "prunefl": Row({"interval": 2}, starts_dense=False, **PRUNEFL),
    "prunefl, dense start": Row(
        {"interval": 2, "initial_adjustments": 0},
        exact_from=2,
        monotone=False,
        masks_travel=True,
        long=False,
    ),
    "prunefl, free": Row(
        {"interval": 2, "initial_adjustments": 2}, final=None, **PRUNEFL
    ),
    "feddst": Row({"interval": 1, "adjust_until": 3}, as_fedavg=False, **FEDDST),
    "feddst, authors": Row(
        {"interval": 1, "adjust_until": 3, "variant": "authors"}, long=False, **FEDDST
    ),
    "static": Row(starts_dense=False),
    "static, layer": Row(
        {"allocation": "layer"}, starts_dense=False, exact_from=None, long=False
    ),
    "rigl": Row({"interval": 2, "adjust_until": 3}, **RIGL),
    "rigl, set": Row(
        {"interval": 1, "adjust_until": 3, "growth": "random"}, long=False, **RIGL
    ),
    "rigl, snfs": Row(
        {"interval": 2, "adjust_until": 3, "growth": "momentum"},
        sends_more=43,
        long=False,
        **RIGL,
    ),
    "rigl, by clients": Row(
        {"interval": 1, "adjust_until": 3, "adjusted_by": "client"},
        as_fedavg=False,
        long=False,
        **FEDDST,
    ),
    "rigl, snfs by clients": Row(
        {"interval": 1, "adjusted_by": "client", "growth": "momentum"},
        as_fedavg=False,
        long=False,
        **FEDDST,
    ),
    "feddip": Row(
        {"interval": 1, "initial_sparsity": 0.0, "xi": 0.0},
        starts_dense=False,
        monotone=False,
        counted=32,
    ),
    "feddip, penalty, within": Row(
        {"interval": 1, "initial_sparsity": 0.3, "xi": 0.1, "variant": "authors"},
        starts_dense=False,
        as_fedavg=False,
        counted=32,
        long=False,
    ),
    "flash": Row({"setup_epochs": 2}, starts_dense=False, drawn_client=True),
    "flash, jmwst": Row(
        {"setup_epochs": 2, "stage_two": "jmwst", "alpha": 0.5},
        as_fedavg=False,
        drawn_client=True,
        starts_dense=False,
        monotone=False,
        masks_travel=True,
        long=False,
    ),
    "sparsyfed": Row({"powerprop": 1.25}, starts_dense=False, **LOCAL),
    "sparsyfed, update": Row(
        {"prune_upload": "update", "powerprop": 1.25}, final=None, long=False
    ),
    "halo": Row(HALO, as_fedavg=False),
    "halo, no penalty": Row({"xi": 0.0}, long=False),
    "halo, averaged": Row(
        {"penalties": "averaged", **HALO}, as_fedavg=False, besides=32, long=False
    ),
    "halo, closed form": Row(
        {"penalties": "closed-form", **HALO}, as_fedavg=False, long=False
    ),
    "halo, lasso, at the end": Row(
        {"penalties": "frozen", "xi": 1e-2, "at": 3}, as_fedavg=False, long=False
    ),
    "ste": Row(monotone=False),
    "ste, sr-ste": Row({"pruned_decay": 0.1}, monotone=False, long=False),
    "progfed": Row({"stages": 2, "warmup_rounds": 0}, **PROGFED),
    "progfed, warm": Row({"warmup_rounds": 1, **KEPT_MOMENTUM}, long=False, **PROGFED),
    "progfed, one stage": Row({"stages": 1}, long=False),
    # A client's width is by its number.
    "heterofl": Row({"widths": (1.0, 0.5)}, drawn_client=True, **PERSONAL),
    "lotteryfl": Row({"accuracy_threshold": 0.3}, counted=32, **PERSONAL),
    "dispfl": Row(
        {"final_sparsity": 0.5, "neighbours": 1},
        starts_dense=False,
        monotone=False,
        drawn_client=True,
        **PERSONAL,
    ),
    "ssfl": Row(starts_dense=False),
    "fedrolex": Row({"widths": (0.5, 0.3)}, drawn_client=True, **PERSONAL),
    "fedtiny": Row(FEDTINY, **GROWN),
    "fedrts": Row({"interval": 1, "alpha": 0.5, "adjust_until": 4}, **GROWN),
    # The chosen candidate starts with the statistics that it was chosen by.
    "fedtiny, candidates": Row(FEDTINY | {"candidates": 3}, as_fedavg=False, **GROWN),
    # Its rounds are FedAvg's; for what follows them see test_unipts.
    "unipts": Row(final=None, long=False),
    # Statistics of the second level are sent too.
    "slimmable": Row({"slow_start": 1}, as_fedavg=False, besides=8),
    "slimmable, alone": Row({"slow_start": 3}, besides=8, long=False),
}
