"""Messages of a federation under damage, and their parts."""

import federation_nodes as nodes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax.deploy import exchange, wire
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import envelope, kinds, leaves
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.federate.plan import Plan, envelope_of, plan_for, plan_of

FACTS = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L"]), min_size=1),
    st.one_of(st.integers(-(2**53), 2**53), st.booleans(), st.text(), st.none()),
)
PARTS = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.binary())


@given(st.text(min_size=1), FACTS, PARTS)
def test_envelopes_are_read_back_as_they_are(kind, facts, parts):
    letter = Envelope(kind, facts, parts)
    assert envelope.read(envelope.write(letter)) == letter


@given(st.binary(max_size=200))
def test_bytes_that_are_no_envelope_are_one_error(content):
    with pytest.raises(InputError):
        envelope.read(content)


@given(st.data())
def test_a_damaged_message_of_a_round_is_an_error_or_a_message(data):
    masks = {"params": {"w": np.arange(6) % 2 == 0}}
    model = {"params": {"w": np.where(masks["params"]["w"], np.float32(1), 0)}}
    form = exchange.Exchange()
    parts = exchange.write_model(form, model, masks, None)
    content = bytearray(envelope.write(Envelope(kinds.TRAIN, {"round": 1}, parts)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    try:
        letter = envelope.read(bytes(content))
        exchange.read_model(letter.parts, masks, None)
    except InputError as error:
        assert "\n" not in str(error)


def test_a_model_that_its_masks_are_not_within_travels_with_them():
    masks = {"w": np.array([True, False, True])}
    model = {"w": np.array([1.0, 2.0, 0.0], np.float32)}
    parts = exchange.write_model(exchange.Exchange(), model, masks, None)
    sent = exchange.read_model(parts, masks, None)
    assert sent.variables["w"].tolist() == [1.0, 2.0, 0.0]
    assert sent.masks["w"].tolist() == [True, False, True]


def test_known_masks_are_not_sent_again():
    rng = np.random.default_rng(0)
    masks = {"w": rng.random(4000) < 0.1}
    model = {"w": np.where(masks["w"], np.float32(1), np.float32(0))}
    form = exchange.Exchange()
    first = exchange.write_model(form, model, masks, None)
    again = exchange.write_model(form, model, masks, masks)
    assert len(again["model"]) < len(first["model"]) - 200
    with pytest.raises(InputError):
        exchange.read_model(again, masks, None)
    sent = exchange.read_model(again, masks, masks)
    assert np.array_equal(sent.masks["w"], masks["w"])


def test_leaves_of_another_tree_are_refused():
    message = leaves.write((np.zeros(3), {"a": np.int32(1)}))
    with pytest.raises(InputError, match="the state has other arrays"):
        leaves.read(message, (np.zeros(4), {"a": np.int32(1)}), "the state")
    with pytest.raises(InputError):
        leaves.read(wire.encode({}), (np.zeros(3),))


def test_a_plan_is_read_back_as_it_is(tmp_path):
    plan = plan_for(nodes.config(tmp_path), nodes.digits())
    read = plan_of(envelope.read(envelope.write(envelope_of(plan))))
    assert isinstance(read, Plan)
    assert read._replace(options={}) == plan._replace(options={})
    assert dict(read.options) == {
        field: list(value) if isinstance(value, tuple) else value
        for field, value in plan.options.items()
    }


@pytest.mark.parametrize("name", ["normalization", "shape", "num_classes"])
def test_a_plan_without_a_part_is_refused(name, tmp_path):
    letter = envelope_of(plan_for(nodes.config(tmp_path), nodes.digits()))
    facts = {key: value for key, value in letter.facts.items() if key != name}
    with pytest.raises(InputError, match="cannot be read"):
        plan_of(letter._replace(facts=facts))
