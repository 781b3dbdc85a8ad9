"""Federations over a network without processes, beside the simulation."""

import io
import json

import federation_nodes as nodes
import jax
import numpy as np
import pytest
from rich.console import Console

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import envelope, kinds, server
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.federate.network import Reply
from fedsparsify_jax.federate.settings import ServerSettings
from fedsparsify_jax.runner import train

ROWS = {
    "global": {},
    "local": {"algorithm": "fedsparsify-local"},
    "kept momentum": {"momentum": 0.9, "optimizer_state": "kept"},
    "topk": {"upload_compression": "topk", "participation": 0.7},
    "halo": {"algorithm": "halo", "penalties": "averaged", "server_ema": 0.5},
    "look-ahead": {"server_lookahead": 0.5, "server_ema": 0.5},
    "fp16, median": {"wire_values": "float16", "merge": "median"},
    "static": {"algorithm": "static"},
}


@pytest.fixture
def quiet():
    return Console(quiet=True)


def simulated(out, console, **options):
    train(nodes.config(out, measure_bytes=True, **options), console)
    return nodes.records(out)


@pytest.mark.parametrize("name", ROWS)
def test_a_federation_has_the_masks_and_numbers_of_the_simulation(
    name, tmp_path, quiet
):
    options = ROWS[name]
    alone = simulated(tmp_path / "alone", quiet, **options)
    together = nodes.federated(tmp_path / "together", console=quiet, **options)
    for one, other in zip(alone, together, strict=True):
        exact = nodes.without(one, "train_loss", "test_loss")
        assert exact == nodes.without(other, "train_loss", "test_loss")
        for field in ("train_loss", "test_loss"):
            assert one[field] == pytest.approx(other[field], rel=1e-6)
    assert nodes.same_models(tmp_path / "alone", tmp_path / "together", atol=1e-6)


def test_bytes_are_those_that_are_measured_and_a_constant_a_message(tmp_path, quiet):
    alone = simulated(tmp_path / "alone", quiet)
    together = nodes.federated(tmp_path / "together", console=quiet)
    for way, most in (("message_bytes_up", 600), ("message_bytes_down", 300)):
        more = [b[way] - a[way] for a, b in zip(alone, together, strict=True)]
        each = [number / nodes.CLIENTS for number in more]
        assert all(0 < number < most for number in each)
        assert max(each) - min(each) <= 16


def test_rounds_between_evaluations_have_bytes_of_their_own(tmp_path, quiet):
    each = nodes.federated(tmp_path / "each", console=quiet, rounds=4)
    seldom = nodes.federated(
        tmp_path / "seldom", console=quiet, rounds=4, evaluate_every=2
    )
    for way in ("message_bytes_up", "message_bytes_down"):
        sent = [row[way] for row in each]
        assert sent == [row[way] for row in seldom]
        assert sent[0] > sent[-1]


def notes_of(tmp_path, network, **options):
    """The records of a federation, and what its server printed."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    return nodes.federated(tmp_path, network, console=console, **options), (
        text.getvalue()
    )


class Failing:
    """A network whose nodes have other answers in some rounds."""

    def __init__(self, faults):
        self.inner = nodes.network()
        self._faults = dict(faults)  # (client, round) -> reply of a message

    def nodes(self):
        return self.inner.nodes()

    def ask(self, messages, timeout):
        replies = dict(self.inner.ask(messages, timeout))
        for node, message in messages.items():
            facts = envelope.read(message).facts
            fault = self._faults.get((node - 10, facts.get("round")))
            if fault is not None:
                replies[node] = fault(replies[node])
        return replies


def changed(edit):
    """A reply whose upload is another one."""

    def of(reply):
        letter = envelope.read(reply.content)
        return Reply(envelope.write(edit(letter)))

    return of


def without_model(letter):
    return letter._replace(parts={})


def of_another_round(letter):
    return letter._replace(facts=dict(letter.facts) | {"round": 99})


GARBAGE = {
    "no message": lambda reply: Reply(b"garbage"),
    "half a message": lambda reply: Reply(reply.content[: len(reply.content) // 2]),
    "no model": changed(without_model),
    "another round": changed(of_another_round),
    "another kind": changed(lambda letter: letter._replace(kind="pear")),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_upload_is_rejected_and_the_round_goes_on(name, tmp_path):
    network = Failing({(1, 2): GARBAGE[name]})
    rows, text = notes_of(tmp_path, network)
    assert [row["merged"] for row in rows] == [3, 2, 3]
    assert [row["rejected"] for row in rows] == [0, 1, 0]
    assert "note: client 1" in text


def test_a_client_without_an_answer_has_dropped_out(tmp_path):
    network = Failing({(2, 2): lambda reply: Reply(error="no answer within 1 s")})
    rows, text = notes_of(tmp_path, network)
    assert [row["dropped"] for row in rows] == [0, 1, 0]
    assert [row["merged"] for row in rows] == [3, 2, 3]
    assert "note: client 2: no answer within 1 s" in text


def test_a_round_without_answers_changes_nothing(tmp_path):
    late = {(client, 2): lambda reply: Reply(error="late") for client in range(3)}
    with jax.debug_nans(False):  # the loss of nobody
        rows, _ = notes_of(tmp_path, Failing(late))
    assert [row["merged"] for row in rows] == [3, 0, 3]
    assert rows[1]["test_accuracy"] == rows[0]["test_accuracy"]


class Coming(Failing):
    """A network whose node 12 is away in round 2, and another one from round 3 on."""

    def __init__(self, directory=None):
        super().__init__({})
        self._directory, self._round = directory, 0

    def nodes(self):
        there = [10, 11]
        if self._round < 1 or self._round > 2:
            there.append(12)
        return there

    def ask(self, messages, timeout):
        for message in messages.values():
            letter = envelope.read(message)
            if letter.kind == kinds.TRAIN:
                self._round = letter.facts["round"]
        if self._round == 2 and 12 not in messages:
            self._round = 3  # it is back before the next one
            answers = {k: self.inner._answers[10 + k] for k in (0, 1)}
            answers[2] = nodes.node(2, self._directory)
            self.inner = nodes.network(answers)
        return super().ask(messages, timeout)


def test_a_node_that_was_started_anew_goes_on_as_the_same_client(tmp_path, quiet):
    away = simulated_without_one(tmp_path / "alone", quiet)
    rows = nodes.federated(tmp_path / "run", Coming(), console=quiet)
    assert [row["dropped"] for row in rows] == [0, 1, 0]
    assert [row["sparsity"] for row in rows] == [row["sparsity"] for row in away]
    assert nodes.same_models(tmp_path / "alone", tmp_path / "run", atol=1e-6)


class Twice(Failing):
    """A network that lists a dead node 12 beside node 22, which is the same client."""

    def __init__(self):
        super().__init__({})
        self.inner._answers[22] = nodes.node(2)
        self._round = 0

    def nodes(self):
        return [10, 11, 12, 22] if self._round else [10, 11, 12]

    def ask(self, messages, timeout):
        for message in messages.values():
            self._round = envelope.read(message).facts.get("round", self._round)
        dead = {12} if self._round >= 2 else set()
        alive = {n: m for n, m in messages.items() if n not in dead}
        return self.inner.ask(alive, timeout)


def test_a_node_may_come_back_while_it_is_still_listed_as_another(tmp_path, quiet):
    rows = nodes.federated(tmp_path / "run", Twice(), console=quiet, rounds=5)
    assert [row["merged"] for row in rows] == [3, 2, 3, 3, 3]


def simulated_without_one(out, console, **options):
    """The federation in which client 2 drops out of round 2, by Failing."""
    network = Failing({(2, 2): lambda reply: Reply(error="away")})
    return nodes.federated(out, network, console=console, **options)


def test_what_a_client_keeps_survives_its_node(tmp_path, quiet):
    options = {"momentum": 0.9, "optimizer_state": "kept"}
    simulated_without_one(tmp_path / "alone", quiet, **options)
    network = Coming(tmp_path / "state")
    network.inner = nodes.network(
        {k: nodes.node(k, tmp_path / "state" if k == 2 else None) for k in range(3)}
    )
    nodes.federated(tmp_path / "run", network, console=quiet, **options)
    assert nodes.same_models(tmp_path / "alone", tmp_path / "run", atol=1e-6)


def test_a_client_that_lost_what_it_kept_is_left_out(tmp_path):
    options = {"momentum": 0.9, "optimizer_state": "kept"}
    rows, text = notes_of(tmp_path, Coming(), **options)
    assert [row["dropped"] for row in rows] == [0, 1, 1]
    assert "lost what it kept" in text


def test_a_server_goes_on_from_its_checkpoint(tmp_path, quiet):
    options = {"momentum": 0.9, "optimizer_state": "kept", "checkpoint_every": 1}
    whole = nodes.federated(tmp_path / "whole", console=quiet, rounds=4, **options)
    same_nodes = nodes.network()
    out = tmp_path / "parts"
    nodes.federated(out, same_nodes, console=quiet, rounds=4, **options)
    for name in ("3", "4"):  # as if it had been killed in round 3
        remove(out / "checkpoints" / name)
    (out / "summary.json").unlink()
    assert (out / "checkpoints").is_dir()
    again = nodes.federated(
        out, same_nodes, console=quiet, rounds=4, resume=True, **options
    )
    assert [nodes.without(row) for row in again] == [nodes.without(r) for r in whole]
    assert nodes.same_models(tmp_path / "whole", out)


def remove(directory):
    for path in sorted(directory.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    directory.rmdir()


REFUSED = {
    "snip": "before round 1",
    "progfed": "before round 1",
    "dispfl": "of one another",
    "unipts": "after the last round",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_whose_clients_cannot_work_apart_is_refused_by_name(
    name, tmp_path, quiet
):
    with pytest.raises(InputError, match=REFUSED[name]):
        nodes.federated(tmp_path / "run", console=quiet, algorithm=name)
    assert not (tmp_path / "run").exists()


SIMULATED_ONLY = {
    "faults": "dropout=0.1",
    "sparse_training": "auto",
    "client_evaluation": "on",
}


@pytest.mark.parametrize("field", SIMULATED_ONLY)
def test_options_of_simulations_are_refused(field, tmp_path, quiet):
    options = {field: SIMULATED_ONLY[field]}
    with pytest.raises(InputError, match=r"goe?s? with fedsparsify train"):
        nodes.federated(tmp_path / "run", console=quiet, **options)


def test_clients_that_do_not_come_are_named(tmp_path, quiet):
    network = nodes.network({0: nodes.node(0), 2: nodes.node(2)})
    settings = ServerSettings(join_timeout=0.1)
    with pytest.raises(InputError, match=r"1 client of 3 did not join .*: 1"):
        nodes.federated(tmp_path / "run", network, settings, quiet)


def test_a_second_node_of_the_same_client_is_left_out(tmp_path):
    network = nodes.network()
    network._answers[20] = nodes.node(1)
    rows, text = notes_of(tmp_path, network)
    assert [row["merged"] for row in rows] == [3, 3, 3]
    assert "client 1 is there already" in text


def test_nodes_may_have_data_of_their_own(tmp_path, quiet):
    digits = nodes.digits()
    x, y = np.asarray(digits.train.x), np.asarray(digits.train.y)
    test = {"x_test": digits.test.x, "y_test": digits.test.y}
    np.savez(tmp_path / "server.npz", x_train=x[:10], y_train=y[:10], **test)
    answers = {}
    for k, rows in enumerate(np.array_split(np.arange(90), 3)):
        path = tmp_path / f"{k}.npz"
        np.savez(path, x_train=x[rows], y_train=y[rows], **test)
        answers[k] = nodes.node(k, mine={"dataset": "npz", "data_dir": str(path)})
    rows = nodes.federated(
        tmp_path / "run",
        nodes.network(answers),
        ServerSettings(own_data=True),
        quiet,
        dataset="npz",
        data_dir=tmp_path / "server.npz",
        train_subset=None,
        model="mlp",
        batch_size=16,
        learning_rate=0.1,
    )
    assert rows[-1]["sparsity"] == pytest.approx(0.8, abs=1e-3)
    partition = json.loads((tmp_path / "run" / "partition.json").read_text())
    assert partition["sizes"] == [30, 30, 30]
    assert partition["counts"] is None


def test_data_that_do_not_fit_the_servers_are_refused(tmp_path, quiet):
    wide = np.zeros((4, 9, 9), np.uint8)
    y = np.arange(4)
    np.savez(tmp_path / "wide.npz", x_train=wide, y_train=y, x_test=wide, y_test=y)
    mine = {"dataset": "npz", "data_dir": str(tmp_path / "wide.npz")}
    network = nodes.network({0: nodes.node(0, mine=mine)})
    text = io.StringIO()
    with pytest.raises(InputError, match="did not join"):
        nodes.federated(
            tmp_path / "run",
            network,
            ServerSettings(join_timeout=0.1),
            Console(file=text, width=200),
        )
    assert "has examples of shape (9, 9), the server's are (8, 8)" in text.getvalue()


def test_a_node_refuses_what_is_no_message_of_a_federation():
    answer = nodes.node(0)
    with pytest.raises(InputError):
        answer(b"garbage")
    with pytest.raises(InputError, match="no answer to 'pear'"):
        answer(envelope.write(Envelope("pear", {})))
    lacking = envelope.read(answer(envelope.write(Envelope(kinds.TRAIN, {"round": 1}))))
    assert lacking == Envelope(kinds.LACKS, {"what": kinds.JOIN})


def test_another_version_of_the_messages_is_refused():
    letter = Envelope(kinds.JOIN, {"format": 99})
    with pytest.raises(InputError, match="install the same fedsparsify_jax"):
        nodes.node(0)(envelope.write(letter))


def test_settings_of_a_server_come_from_a_file(tmp_path):
    path = tmp_path / "federation.json"
    with pytest.raises(InputError, match="cannot read the federation's options"):
        server.serve(nodes.network(), {"config": str(path)})
    options = {**nodes.OPTIONS, "out": str(tmp_path / "run"), "rounds": 1}
    path.write_text(json.dumps({"options": options}), encoding="utf-8")
    server.serve(nodes.network(), {"config": str(path)})
    assert len(nodes.records(tmp_path / "run")) == 1


class Timed:
    """A network that notes how long the answers to each kind of message are wanted."""

    def __init__(self):
        self.inner, self.waits = nodes.network(), {}

    def nodes(self):
        return self.inner.nodes()

    def ask(self, messages, timeout):
        for message in messages.values():
            self.waits.setdefault(envelope.read(message).kind, set()).add(timeout)
        return self.inner.ask(messages, timeout)


def test_compiling_before_the_first_round_is_no_round_s_time(tmp_path, quiet):
    network = Timed()
    settings = ServerSettings(join_timeout=600.0, round_timeout=10.0)
    nodes.federated(tmp_path / "run", network, console=quiet, settings=settings)
    assert network.waits[kinds.BEGIN] == {600.0}
    assert network.waits[kinds.TRAIN] == {10.0}
