"""Rounds whose uploads the server cannot read, beside those in clear."""

import io

import federation_nodes as nodes
import jax
import numpy as np
import pytest
from rich.console import Console

from fedsparsify_jax.cli import main
from fedsparsify_jax.deploy import encrypted
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import cipher, envelope, kinds, simulated
from fedsparsify_jax.federate.network import Reply
from fedsparsify_jax.runner import train

pytest.importorskip("tenseal", reason="tenseal is not installed")

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def keys():
    return encrypted.make_keys()


class Watching:
    """A network that keeps the answers of nodes, and may change them."""

    def __init__(self, keys, change=lambda client, letter, reply: reply):
        holders = {0: keys}
        self._inner = nodes.network(
            {k: nodes.node(k, keys=holders.get(k)) for k in range(3)}
        )
        self._change, self.letters = change, []

    def nodes(self):
        return self._inner.nodes()

    def ask(self, messages, timeout):
        replies = {}
        for node, reply in self._inner.ask(messages, timeout).items():
            asked = envelope.read(messages[node])
            replies[node] = reply = self._change(node - 10, asked, reply)
            if reply.content:
                self.letters.append(envelope.read(reply.content))
        return replies


def sealed(tmp_path, network, **options):
    """The records of an encrypted federation, and what its server printed."""
    text = io.StringIO()
    console = Console(file=text, width=200)
    rows = nodes.federated(
        tmp_path / "sealed", network, console=console, encrypted=True, **options
    )
    return rows, text.getvalue()


@pytest.mark.parametrize("algorithm", ["fedsparsify-global", "fedsparsify-local"])
def test_encrypted_rounds_have_the_masks_of_those_in_clear(algorithm, keys, tmp_path):
    clear = nodes.federated(tmp_path / "clear", console=QUIET, algorithm=algorithm)
    network = Watching(keys)
    rows, text = sealed(tmp_path, network, algorithm=algorithm)
    assert "note" not in text
    for one, other in zip(clear, rows, strict=True):
        for field in ("kept", "sparsity", "bytes_up", "bytes_down", "merged"):
            assert one[field] == other[field]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
    assert nodes.same_models(tmp_path / "clear", tmp_path / "sealed", atol=1e-5)
    # No answer has a model in it that could be read.
    parts = {name for letter in network.letters for name in letter.parts}
    expected = {"public", "more", cipher.SUM, cipher.NUMBERS}
    assert parts == expected | ({cipher.MASKS} if "local" in algorithm else set())
    numbers = [x for x in network.letters if cipher.NUMBERS in x.parts]
    assert len(numbers) == len(rows)


def test_sparse_ciphertexts_are_shorter(keys, tmp_path):
    rows, _ = sealed(tmp_path, Watching(keys), final_sparsity=0.95)
    assert rows[-1]["message_bytes_up"] < 0.25 * rows[0]["message_bytes_up"]


def in_round(number, kind, client, reply):
    """A network's change of one answer."""

    def change(asking, letter, answer):
        facts = (letter.kind, letter.facts.get("round"), asking)
        return reply(answer) if facts == (kind, number, client) else answer

    return change


def test_a_client_without_an_answer_has_dropped_out(keys, tmp_path):
    late = in_round(2, kinds.TRAIN, 1, lambda reply: Reply(error="late"))
    rows, text = sealed(tmp_path, Watching(keys, late))
    assert [row["merged"] for row in rows] == [3, 2, 3]
    assert [row["dropped"] for row in rows] == [0, 1, 0]
    assert "note: client 1: late" in text


def test_a_client_that_votes_and_sends_nothing_more_is_not_merged(keys, tmp_path):
    late = in_round(2, kinds.ENCRYPT, 2, lambda reply: Reply(error="late"))
    rows, _ = sealed(tmp_path, Watching(keys, late), algorithm="fedsparsify-local")
    assert [row["merged"] for row in rows] == [3, 2, 3]
    assert [row["rejected"] for row in rows] == [0, 1, 0]


def test_without_the_key_holder_a_round_changes_nothing(keys, tmp_path):
    away = in_round(2, kinds.DECRYPT, 0, lambda reply: Reply(error="away"))
    with jax.debug_nans(False):  # the loss of nobody
        rows, _ = sealed(tmp_path, Watching(keys, away))
    assert [row["merged"] for row in rows] == [3, 0, 3]
    assert rows[1]["test_loss"] == rows[0]["test_loss"]


def of_another_key(reply):
    letter = envelope.read(reply.content)
    other = encrypted.make_keys().public
    terms = encrypted.Terms(round=2, masks="0" * 16, count=1, bound=1.0)
    content = encrypted.encrypt(np.ones(1), other, 0.5, terms)
    parts = dict(letter.parts) | {cipher.SUM: content}
    return Reply(envelope.write(letter._replace(parts=parts)))


def truncated(reply):
    letter = envelope.read(reply.content)
    parts = dict(letter.parts) | {cipher.SUM: letter.parts[cipher.SUM][:-100]}
    return Reply(envelope.write(letter._replace(parts=parts)))


@pytest.mark.parametrize("change", [of_another_key, truncated])
def test_a_foreign_or_broken_ciphertext_is_left_out(change, keys, tmp_path):
    network = Watching(keys, in_round(2, kinds.TRAIN, 1, change))
    rows, text = sealed(tmp_path, network)
    assert [row["merged"] for row in rows] == [3, 2, 3]
    assert "note: client 1: " in text


def test_a_server_without_a_key_holder_says_so(tmp_path):
    with pytest.raises(InputError, match="needs a key holder"):
        nodes.federated(tmp_path / "run", console=QUIET, encrypted=True)


REFUSED = {
    "feddst": {"algorithm": "feddst"},
    "median": {"merge": "median"},
    "topk": {"upload_compression": "topk"},
    "movement": {"criterion": "movement"},
    "no vote": {"algorithm": "fedsparsify-local", "vote_rule": "none"},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_mean_of_models_is_refused(name, tmp_path):
    with pytest.raises(InputError, match="--encrypted does not go with"):
        simulated.train(nodes.config(tmp_path / "run", encrypted=True, **REFUSED[name]))


def test_only_the_holder_decrypts():
    node = nodes.node(1)
    letter = envelope.write(envelope.Envelope(kinds.DECRYPT, {"clients": 1}))
    with pytest.raises(InputError, match="not the key holder"):
        node(letter)


def test_train_encrypted_is_one_command(tmp_path, capsys):
    words = "--num-clients 3 --rounds 2 --local-epochs 1 --train-subset 90 --encrypted"
    assert main(["train", *words.split(), "--out", str(tmp_path / "run")]) == 0
    assert "sparsity" in capsys.readouterr().out
    assert len(nodes.records(tmp_path / "run")) == 2
    with pytest.raises(InputError, match=r"federate\.simulated"):
        train(nodes.config(tmp_path / "again", encrypted=True))
