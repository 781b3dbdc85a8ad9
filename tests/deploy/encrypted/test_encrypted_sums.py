"""Encrypted sums are those of plain numbers; whatever else arrives is refused."""

import os
import random

import numpy as np
import pytest
from encrypted_bytes import MASKS as DIGEST
from encrypted_bytes import PRIME, PUBLIC, residues_of, sealed_again
from encrypted_bytes import message as by_hand

from fedsparsify_jax.deploy import encrypted
from fedsparsify_jax.errors import InputError

pytest.importorskip("tenseal.sealapi", reason="tenseal is missing: extra encrypted")

COUNT = 5000  # two ciphertexts and a part of a third
MASKS = {"w": np.ones(COUNT, bool)}


def row(seed: int, count: int = COUNT) -> np.ndarray:
    return 0.05 * np.random.default_rng(seed).standard_normal(count)


def terms_for(clients: int, **options) -> encrypted.Terms:
    return encrypted.terms_of({"w": row(0)}, MASKS, round=3, clients=clients, **options)


@pytest.fixture(scope="module")
def keys():
    return encrypted.make_keys()


@pytest.fixture(scope="module")
def other_keys():
    return encrypted.make_keys()


def test_sums_are_within_a_millionth_of_the_largest_weight(keys):
    terms = terms_for(10)
    sizes = np.arange(1, 11)
    shares = sizes / sizes.sum()
    rows = [row(seed) for seed in range(10)]
    arriving = (
        encrypted.encrypt(numbers, keys.public, share, terms)
        for numbers, share in zip(rows, shares, strict=True)
    )
    message = encrypted.add(arriving, keys.public, terms, clients=10)
    total = encrypted.decrypt(message, keys.secret, terms, clients=10)
    expected = np.average(rows, axis=0, weights=sizes)
    assert np.abs(total.mean - expected).max() <= 1e-6 * np.abs(expected).max()
    assert (total.clients, total.share) == (10, pytest.approx(1))


def test_numbers_that_are_whole_steps_come_back_exactly(keys):
    """With the bound 2^29 - 1 a step is one: noise is rounded away, all of it."""
    terms = terms_for(2, bound=2.0**29 - 1)
    rng = np.random.default_rng(0)
    parts = [rng.integers(-(2**28), 2**28, COUNT) * 2.0 for _ in range(2)]
    arriving = [encrypted.encrypt(part, keys.public, 0.5, terms) for part in parts]
    message = encrypted.add(arriving, keys.public, terms)
    numbers = encrypted.decrypt(message, keys.secret, terms).numbers
    assert np.array_equal(numbers, (parts[0] + parts[1]) / 2)


def test_the_noise_of_a_thousand_clients_is_rounded_away(keys):
    """All of them with a share of 2^-10 and whole steps, which come back exactly."""
    terms = encrypted.Terms(round=0, masks=DIGEST, count=2048, bound=2.0**29 - 1)
    numbers = np.random.default_rng(0).integers(-(2**19), 2**19, 2048)
    arriving = (
        encrypted.encrypt(1024.0 * numbers, keys.public, 2**-10, terms)
        for _ in range(1000)
    )
    message = encrypted.add(arriving, keys.public, terms, clients=1000)
    total = encrypted.decrypt(message, keys.secret, terms)
    assert np.array_equal(total.numbers, 1000 * numbers)


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_at_the_bound_come_back(keys, sign):
    """All of one size: the largest that polynomials can get."""
    terms = terms_for(1, bound=0.5)
    numbers = np.full(COUNT, 0.5 * sign)
    message = encrypted.encrypt(numbers, keys.public, 1.0, terms)
    assert (
        encrypted.decrypt(message, keys.secret, terms).mean.tolist()
        == [0.5 * sign] * COUNT
    )


def test_the_mean_is_of_the_clients_that_are_there(keys):
    terms = terms_for(3)
    message = encrypted.add(
        [encrypted.encrypt(row(s), keys.public, 0.25, terms) for s in (1, 2)],
        keys.public,
        terms,
    )
    total = encrypted.decrypt(message, keys.secret, terms)
    expected = (row(1) + row(2)) / 2
    np.testing.assert_allclose(total.mean, expected, rtol=0, atol=1e-7)
    assert (total.share, total.clients) == (0.5, 2)


def test_a_missing_client_is_refused_by_a_holder_who_counts(keys):
    terms = terms_for(3)
    message = encrypted.encrypt(row(1), keys.public, 0.25, terms)
    with pytest.raises(InputError, match="is of 1 client, 3 are expected"):
        encrypted.decrypt(message, keys.secret, terms, clients=3)


@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 2049])
def test_any_count_of_numbers_travels(keys, count):
    terms = encrypted.Terms(round=0, masks="0" * 16, count=count, bound=1.0)
    message = encrypted.encrypt(row(1, count), keys.public, 1.0, terms)
    assert len(message) == encrypted.size(count)
    numbers = encrypted.decrypt(message, keys.secret, terms).numbers
    np.testing.assert_allclose(numbers, row(1, count), rtol=0, atol=2e-9)


def test_the_same_numbers_never_look_the_same(keys):
    """Each byte agrees once in 256 times, as those of two random messages do."""
    terms = terms_for(2)
    one, other = (
        np.frombuffer(encrypted.encrypt(row(1), keys.public, 0.5, terms), np.uint8)
        for _ in range(2)
    )
    assert np.mean(one[100:] == other[100:]) < 0.01


def test_zeros_look_like_anything_else(keys):
    """Bytes of a message are uniform whatever is in it: chi-squared, 255 degrees."""
    terms = terms_for(1)
    message = encrypted.encrypt(np.zeros(COUNT), keys.public, 1.0, terms)
    words = np.frombuffer(message[72:-16], np.uint8).reshape(-1, 6)
    counts = np.bincount(words[:, :5].reshape(-1), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 400


def test_systems_without_files_in_memory_use_directories(keys, monkeypatch):
    monkeypatch.delattr(os, "memfd_create", raising=False)
    terms = terms_for(1)
    message = encrypted.encrypt(row(1), keys.public, 1.0, terms)
    mean = encrypted.decrypt(message, keys.secret, terms).mean
    np.testing.assert_allclose(mean, row(1), rtol=0, atol=1e-7)


def test_keys_are_not_shown_and_small(keys):
    assert repr(keys) == "Keys()"
    assert len(keys.public) < 30_000 and len(keys.secret) < 15_000


def test_a_wrong_key_is_named(keys, other_keys):
    terms = terms_for(1)
    message = encrypted.encrypt(row(1), keys.public, 1.0, terms)
    with pytest.raises(InputError, match="for another key"):
        encrypted.decrypt(message, other_keys.secret, terms)
    with pytest.raises(InputError, match="for another key"):
        encrypted.add([message], other_keys.public, terms)
    with pytest.raises(
        InputError, match=r"this is no secret key .* it is a public key"
    ):
        encrypted.decrypt(message, keys.public, terms)
    with pytest.raises(
        InputError, match=r"this is no public key .* it is a secret key"
    ):
        encrypted.encrypt(row(1), keys.secret, 1.0, terms)


@pytest.mark.parametrize("count", [9, 2048])
def test_a_message_under_anothers_name_does_not_decrypt(keys, other_keys, count):
    """The digest of the key is at bytes 12 to 28."""
    terms = encrypted.Terms(round=3, masks=DIGEST, count=count, bound=1.0)
    content = encrypted.encrypt(row(1, count), keys.public, 1.0, terms)
    name = bytes.fromhex(encrypted.fingerprint(other_keys.public))
    forged = sealed_again(content[:12] + name + content[28:])
    with pytest.raises(InputError, match="this key makes no numbers"):
        encrypted.decrypt(forged, other_keys.secret, terms)


def test_numbers_behind_the_last_are_refused(keys):
    """The count is at bytes 36 to 44: one that is smaller than it was."""
    terms = encrypted.Terms(round=3, masks=DIGEST, count=10, bound=1.0)
    content = encrypted.encrypt(np.ones(10), keys.public, 1.0, terms)
    forged = sealed_again(content[:36] + (9).to_bytes(8, "little") + content[44:])
    fewer = encrypted.Terms(round=3, masks=DIGEST, count=9, bound=1.0)
    with pytest.raises(InputError, match="this key makes no numbers"):
        encrypted.decrypt(forged, keys.secret, fewer)


@pytest.mark.parametrize(
    "numbers, text",
    [
        (np.full(COUNT, np.nan), "NaN or infinite"),
        (np.full(COUNT, -np.inf), "NaN or infinite"),
        (np.full(COUNT, 1e9), "beyond the bound"),
        (np.zeros(COUNT + 1), r"shape \(5001,\), those of this sum \(5000,\)"),
        (np.zeros((1, COUNT)), "have the shape"),
    ],
)
def test_numbers_that_cannot_be_sent_are_refused(keys, numbers, text):
    with pytest.raises(InputError, match=text):
        encrypted.encrypt(numbers, keys.public, 0.5, terms_for(2))


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan"), "half", None])
def test_shares_that_are_none_are_refused(keys, share):
    with pytest.raises(InputError, match="the share is"):
        encrypted.encrypt(row(1), keys.public, share, terms_for(2))


def damaged(rng: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.choice([1, 2, 8, 64])):
        near = rng.random() < 0.5
        changed[rng.randrange(120 if near else len(changed))] = rng.randrange(256)
    return bytes(
        changed[: rng.randrange(len(changed))] if rng.random() < 0.2 else changed
    )


@pytest.mark.parametrize("kind", ["message", "public", "secret"])
def test_whatever_arrives_is_refused_or_harmless(keys, kind):
    """A thousand of each, half of them with a checksum that is right again."""
    terms = terms_for(1)
    terms = encrypted.Terms(round=3, masks=terms.masks, count=9, bound=1.0)
    message = encrypted.encrypt(row(1, 9), keys.public, 1.0, terms)
    uses = {
        "message": (message, lambda c: encrypted.decrypt(c, keys.secret, terms)),
        "public": (
            keys.public,
            lambda c: encrypted.encrypt(row(1, 9), c, 1.0, terms),
        ),
        "secret": (keys.secret, lambda c: encrypted.decrypt(message, c, terms)),
    }
    content, use = uses[kind]
    rng, refused = random.Random(kind), 0
    for turn in range(1000):
        changed = damaged(rng, content)
        try:
            use(sealed_again(changed) if turn % 2 else changed)
        except InputError as error:
            refused += 1
            assert len(str(error).splitlines()) == 1
    assert refused > 900


def test_the_sum_is_the_one_of_seal():
    """SEAL's evaluator adds ciphertexts of its own to the same residues."""
    seal = pytest.importorskip("tenseal.sealapi")
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(2048)
    parameters.set_coeff_modulus([seal.Modulus(PRIME)])
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set()  # of 128 bits of security, or SEAL refuses them
    public = seal.PublicKey()
    seal.KeyGenerator(context).create_public_key(public)
    encryptor = seal.Encryptor(context, public)
    one, other, both = (seal.Ciphertext(context) for _ in range(3))
    encryptor.encrypt_zero(one)
    encryptor.encrypt_zero(other)
    seal.Evaluator(context).add(one, other, both)
    words = [
        [cipher.dyn_array()[n] for n in range(4096)] for cipher in (one, other, both)
    ]
    terms = encrypted.Terms(round=7, masks=DIGEST, count=3, bound=2.0)
    content = encrypted.add(map(by_hand, words[:2]), PUBLIC, terms)
    assert residues_of(content).tolist() == words[2]
