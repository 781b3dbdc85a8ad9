"""Options resolved: each checked by its field's rules, then all of them together."""

import dataclasses
from typing import Any

from fedsparsify_jax import data, models
from fedsparsify_jax.aggregation.merges import WITHSTANDING
from fedsparsify_jax.compressors import Compression, compression_of
from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.engine.wrappers.attacks import NAMES as ATTACKS
from fedsparsify_jax.engine.wrappers.attacks import SCALED
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.pruning.patterns import UNSTRUCTURED, groups_of
from fedsparsify_jax.runner.options import defaults, privacy, schema
from fedsparsify_jax.runner.options.config import NATURAL, STORED, TrainConfig
from fedsparsify_jax.runner.options.grammars import client_sizes
from fedsparsify_jax.runner.options.registry import takes
from fedsparsify_jax.runner.options.rules import flag, in_options
from fedsparsify_jax.runner.process import distributed


def check_cohort(config: TrainConfig) -> None:
    """Refuses a share of the clients that is none of them.

    Raises:
      InputError: naming the options.
    """
    assert config.num_clients is not None
    try:
        cohort_size(config.num_clients, config.participation, config.cohort_sampling)
    except ValueError as error:
        raise InputError(in_options(str(error))) from error


def _check_together(config: TrainConfig) -> None:
    if config.partition != NATURAL:  # whose clients are not counted yet
        check_cohort(config)
    _check_representative(config)
    _check_columns(config)
    _check_schedule(config)
    if config.coordinator is not None and config.out is None:
        raise InputError(
            "--coordinator needs --out DIR, on a file system that all processes see"
        )
    if config.resume and config.out is None:
        raise InputError("--resume needs --out DIR: which run is to be continued?")
    if config.allow_changes and not config.resume:
        raise InputError(
            "--allow-changes needs --resume: it is about a run to continue"
        )
    distributed.check(config.coordinator, config.num_processes, config.process_id)
    _check_hostile(config)
    _check_past(config)
    _check_model(config)
    compression(config)
    privacy.check(dataclasses.asdict(config))
    if config.chunk_size is not None and config.cohort == "vmap":
        raise InputError("--chunk-size has no meaning with --cohort vmap: use map")
    if config.wire_compression != "none" and not config.measure_bytes:
        raise InputError(
            "--wire-compression is about the messages that --measure-bytes encodes: "
            "give both"
        )
    if (config.partition == STORED) != (config.dataset == "store"):
        raise InputError(
            f"--partition {config.partition} does not go with --dataset "
            f"{config.dataset}: a store's clients, and only they, are divided already"
        )
    if config.client_sizes and config.partition not in ("iid", "value-skew"):
        raise InputError(
            f"--client-sizes goes with the partitions iid and value-skew, not with "
            f"{config.partition}"
        )


def _check_representative(config: TrainConfig) -> None:
    """Refuses cohorts by labels where labels are not at hand, or must be hidden."""
    if config.cohort_sampling != "representative":
        return
    if config.client_data == "disk":
        raise InputError(
            "--cohort-sampling representative looks at the labels of all clients: use "
            "--client-data memory"
        )
    if config.dp_clip is not None:
        raise InputError(
            "--cohort-sampling representative does not go with --dp-clip: it looks at "
            "the clients' labels, and no noise hides what it saw"
        )


def _check_columns(config: TrainConfig) -> None:
    """Refuses columns where there are none, and natural clients without a column."""
    takes_these = data.loader_options(config.dataset)
    for field in ("client_column", "label_column", "input_columns", "split_by"):
        if getattr(config, field) is not None and field not in takes_these:
            raise InputError(
                f"{flag(field)} does not go with --dataset {config.dataset}, which has "
                "no such columns"
            )
    _check_next_token(config)
    is_natural = config.partition == NATURAL
    if is_natural and config.client_column is None:
        raise InputError(
            "--partition natural needs --client-column NAME: whose an example is"
        )
    if config.client_column is not None and not (is_natural or config.split_by):
        raise InputError(
            f"--client-column does not go with --partition {config.partition}: it "
            "divides the examples already (leave --partition out, or name natural)"
        )
    for field in ("min_client_examples", "max_clients"):
        if getattr(config, field) is not None and not is_natural:
            raise InputError(f"{flag(field)} goes with --partition natural")
    if is_natural and config.num_clients is not None:
        raise InputError(
            f"--num-clients is {config.num_clients}: the data say who the clients are "
            "(--max-clients draws some of them)"
        )


def _check_next_token(config: TrainConfig) -> None:
    """Refuses texts where there are none, and what does not go with them."""
    if config.next_token is None:
        for field in ("window", "vocabulary"):
            if getattr(config, field) is not None:
                raise InputError(f"{flag(field)} needs --next-token character or word")
        return
    if "next_token" not in data.loader_options(config.dataset):
        raise InputError(
            f"--next-token does not go with --dataset {config.dataset}, which has no "
            "texts"
        )
    if config.label_column is not None:
        raise InputError(
            "--label-column does not go with --next-token: what is learnt is the text"
        )
    if not models.reads_tokens(config.model or ""):
        raise InputError(
            f"--next-token does not go with --model {config.model}, which reads no "
            "tokens: use lstm or transformer"
        )


def _check_model(config: TrainConfig) -> None:
    """Checks what is asked of the model's numbers."""
    if config.precision != "float32" and config.sparse_training != "off":
        raise InputError(
            "--sparse-training auto goes with --precision float32: its forms are "
            "chosen by costs that were measured in that"
        )
    if config.lora_rank is not None and config.init is None:
        raise InputError("--lora-rank needs --init: the model that is to be adapted")
    if config.lora_rank is not None and config.loss == "contrastive":
        raise InputError(
            "--lora-rank does not go with --loss contrastive: that replaces the last "
            "layer, which is a part of the fixed model"
        )
    if config.lora_alpha is not None and config.lora_rank is None:
        raise InputError("--lora-alpha needs --lora-rank: adapters of which rank?")


def _check_schedule(config: TrainConfig) -> None:
    """Refuses rounds that never come, and a sparsity that would have to go down."""
    assert config.rounds is not None
    if (config.fine_tune_rounds or 0) >= config.rounds:
        raise InputError(
            f"--fine-tune-rounds is {config.fine_tune_rounds}: it must be below the "
            f"{counted(config.rounds, 'round')}"
        )
    only = f"there are only {config.rounds} rounds"
    if config.rounds == 1:
        only = "there is only 1 round"
    rounds = {"prune_at": config.prune_at or 1}
    rounds |= {"begin": config.begin, "frequency": config.frequency}
    for field, number in rounds.items():
        if number > config.rounds:
            raise InputError(f"{flag(field)} is {number}: {only}")
    first, last = config.initial_sparsity or 0.0, config.final_sparsity
    if first > last:
        raise InputError(
            f"--initial-sparsity is {first}: it must be at most the final sparsity, "
            f"{last}"
        )


def _check_hostile(config: TrainConfig) -> None:
    if (config.attack is None) != (config.attackers is None):
        raise InputError(
            f"--attack {'|'.join(ATTACKS)} and --attackers SHARE go together: got "
            f"{config.attack} and {config.attackers}"
        )
    if config.attack_scale is not None and config.attack not in SCALED:
        raise InputError(
            f"--attack-scale goes with --attack {'|'.join(SCALED)}, not with "
            f"{config.attack}"
        )
    if config.assumed_attackers is not None and config.merge not in WITHSTANDING:
        raise InputError(
            f"--assumed-attackers goes with --merge {'|'.join(WITHSTANDING)}, not with "
            f"{config.merge}"
        )


def _check_past(config: TrainConfig) -> None:
    """Refuses what the past of a run cannot be kept or measured by."""
    wants = "--forgetting on" if config.forgetting == "on" else "--fusion-every"
    if config.forgetting == "off" and config.fusion_every is None:
        return
    if not config.validation_fraction:
        raise InputError(
            f"{wants} needs a validation set: give --validation-fraction, such as 0.1"
        )
    if config.coordinator is not None:
        raise InputError(
            f"{wants} is for a run of one process: leave --coordinator out"
        )
    if (config.fusion_every or 0) % config.evaluate_every:
        raise InputError(
            f"--fusion-every is {config.fusion_every}: it must be a multiple of "
            f"--evaluate-every, {config.evaluate_every}"
        )


def compression(config: TrainConfig) -> Compression | None:
    """Returns how uploads are compressed; None if they are not.

    Raises:
      InputError: for options that do not go together.
    """
    feedback = config.error_feedback
    try:
        return compression_of(
            config.upload_compression,
            config.topk_fraction,
            None if feedback is None else feedback == "on",
        )
    except ValueError as error:
        raise InputError(in_options(str(error))) from error


def _of_store(config: TrainConfig) -> dict[str, Any]:
    """Returns the options that a store of clients settles."""
    settled: dict[str, Any] = {}
    for field in ("train_subset", "validation_fraction"):
        if getattr(config, field) != getattr(TrainConfig, field):
            raise InputError(f"{flag(field)} does not go with the clients of a store")
    if config.partition == TrainConfig.partition:
        settled["partition"] = STORED
    if config.data_dir is not None:
        has = data.open_population(config.data_dir).num_clients
        if config.num_clients not in (None, has):
            raise InputError(
                f"--num-clients is {config.num_clients}: the store {config.data_dir} "
                f"has {counted(has, 'client')}"
            )
        settled["num_clients"] = has
    return settled


def _of_pattern(options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options that a pattern of N of every M settles."""
    groups = groups_of(options["pattern"] or UNSTRUCTURED)
    if groups is None or not takes(options["algorithm"], "pattern"):
        return {}
    final = options["final_sparsity"]
    if final not in (TrainConfig.final_sparsity, groups.sparsity):
        raise InputError(
            f"--final-sparsity is {final}: --pattern {options['pattern']} prunes "
            f"{groups.sparsity:g} of the kernels, leave it out"
        )
    return {"final_sparsity": groups.sparsity}


def _of_loss(options: dict[str, Any]) -> dict[str, Any]:
    """Spares the layer that becomes a classifier after rounds without labels."""
    contrastive = options["loss"] == "contrastive"
    if not contrastive or not takes(options["algorithm"], "loss"):
        return {}
    return {"spare": options["spare"] or "last"}


def resolve(config: TrainConfig) -> TrainConfig:
    """Fills in the defaults that depend on the data set and checks every value.

    Raises:
      InputError: naming the option, its value and what is allowed.

    Example:
      >>> resolve(TrainConfig(dataset="fashion_mnist")).rounds
      200
    """
    changes = schema.check(config)
    dataset, sizes = changes["dataset"], changes["client_sizes"]
    if sizes is not None and changes["num_clients"] is None:
        changes["num_clients"] = len(client_sizes(sizes))
    if dataset == "store":
        changes |= _of_store(dataclasses.replace(config, **changes))
    if changes["client_column"] is not None and changes["partition"] == "iid":
        changes["partition"] = NATURAL
    if dataset == "store" and changes["partition"] == NATURAL:
        changes["partition"] = STORED
    if changes["next_token"] is not None and changes["model"] is None:
        changes["model"] = "lstm"
    changes |= _of_pattern(changes)
    for field, value in defaults.of(dataset, changes["algorithm"]).items():
        counts_itself = field == "num_clients" and changes["partition"] == NATURAL
        if changes[field] is None and not counts_itself:
            changes[field] = value
    changes |= _of_loss(changes)
    resolved = dataclasses.replace(config, **changes)
    _check_together(resolved)
    return resolved
