"""Messages and their sums byte by byte, without SEAL, which adding does not need."""

import sys

import numpy as np
import pytest
from encrypted_bytes import KEY, MASKS, PRIME, PUBLIC, checksum, enveloped, message

from fedsparsify_jax.deploy import encrypted
from fedsparsify_jax.errors import InputError

TERMS = encrypted.Terms(round=7, masks=MASKS, count=3, bound=2.0)


def residues(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, PRIME, 4096)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(InputError, match=r"pip install 'fedsparsify_jax\[encrypted\]'"):
        encrypted.make_keys()


def test_the_modulus_is_the_largest_prime_that_fits():
    """By Fermat and trial division of what is one more than a multiple of 4,096."""

    def is_prime(number):
        return all(pow(base, number - 1, number) == 1 for base in (2, 3, 5, 7, 11))

    candidates = range(2**48 - 4095, 2**48 - 40_000, -4096)
    assert next(number for number in candidates if is_prime(number)) == PRIME
    divisors = np.arange(2, 2**24)
    assert (PRIME % divisors).all()


def test_sums_are_those_of_residues_modulo_the_prime():
    one, other = residues(1), residues(2)
    one[0], other[0] = PRIME - 1, PRIME - 1
    arriving = [message(one, share=0.25), message(other, share=0.5)]
    expected = message((one + other) % PRIME, share=0.75, clients=2)
    assert encrypted.add(iter(arriving), PUBLIC, TERMS) == expected


def test_sums_of_sums_are_sums():
    parts = [message(residues(seed), share=0.25) for seed in range(3)]
    whole = encrypted.add(parts, PUBLIC, TERMS, clients=3)
    two = encrypted.add(parts[:2], PUBLIC, TERMS)
    assert encrypted.add([two, parts[2]], PUBLIC, TERMS) == whole


@pytest.mark.parametrize("count, ciphertexts", [(0, 0), (1, 1), (2048, 1), (2049, 2)])
def test_a_message_has_twelve_bytes_a_number_in_whole_ciphertexts(count, ciphertexts):
    assert encrypted.size(count) == 88 + ciphertexts * 2 * 2048 * 6


def refusal(*arriving, public=PUBLIC, terms=TERMS, clients=None) -> str:
    with pytest.raises(InputError) as error:
        encrypted.add(arriving, public, terms, clients=clients)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_no_messages_are_refused():
    assert "no messages to add" in refusal()


def test_a_missing_client_is_named():
    text = refusal(message(residues(1)), clients=2)
    assert "is of 1 client, 2 are expected" in text


def test_the_same_message_twice_is_refused():
    one = message(residues(1))
    assert "there twice" in refusal(one, one)


def test_shares_above_one_are_refused():
    parts = [message(residues(seed), share=0.6) for seed in range(2)]
    assert "add up to 1.2" in refusal(*parts)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan"), float("inf")])
def test_impossible_shares_are_refused(share):
    assert "cannot be" in refusal(message(residues(1), share=share))


@pytest.mark.parametrize("clients", [0, 1001])
def test_impossible_numbers_of_clients_are_refused(clients):
    assert "cannot be" in refusal(message(residues(1), clients=clients))


def test_more_clients_than_the_noise_allows_are_refused():
    parts = [message(residues(n), share=0.1, clients=600) for n in range(2)]
    assert "more than 1,000 clients" in refusal(*parts)


@pytest.mark.parametrize(
    "other, text",
    [
        ({"round": 8}, "its round is 8, not 7"),
        ({"bound": 4.0}, "its bound is 4.0, not 2.0"),
        ({"count": 4}, "its count is 4, not 3"),
        ({"key": checksum(b"another")}, "for another key"),
    ],
)
def test_messages_for_other_sums_are_refused(other, text):
    assert text in refusal(message(residues(1), **other))


def test_messages_in_the_order_of_other_masks_are_refused():
    terms = encrypted.Terms(round=7, masks="f" * 16, count=3, bound=2.0)
    assert f"its masks is {MASKS}" in refusal(message(residues(1)), terms=terms)


def test_residues_that_no_ciphertext_has_are_refused():
    words = residues(1)
    words[17] = PRIME
    assert "numbers that no ciphertext has" in refusal(message(words))


@pytest.mark.parametrize("number", [4095, 4097, 8192, 0])
def test_messages_of_another_length_are_refused(number):
    words = np.resize(residues(1), number)
    assert "one of 3 numbers has 24,664" in refusal(message(words))


@pytest.mark.parametrize("version, parameters", [(2, 1), (0, 1), (1, 2)])
def test_other_versions_and_parameters_are_refused(version, parameters):
    content = enveloped(b"fedspmsg", KEY, b"", version, parameters)
    assert "this library" in refusal(content)


def test_kinds_are_not_mixed_up():
    assert "it is a public key" in refusal(PUBLIC)
    secret = enveloped(b"fedspsec", KEY, b"...")
    assert "it is a secret key" in refusal(secret)
    assert "this is no public key" in refusal(message(residues(1)), public=secret)
    assert "its first bytes differ" in refusal(b"")
    assert "not str" in refusal("text")


def test_a_public_key_under_anothers_digest_is_refused():
    forged = enveloped(b"fedsppub", checksum(b"another"), b"any key")
    assert "not the one that it says" in refusal(message(residues(1)), public=forged)


def test_fingerprints_are_the_digests_of_keys():
    assert encrypted.fingerprint(PUBLIC) == KEY.hex()


def test_every_flipped_bit_and_every_truncation_is_refused():
    """The checksum sees it; a thousand places, and all of the head and the end."""
    content = message(residues(1))
    rng = np.random.default_rng(0)
    ends = [*range(100), *range(len(content) - 20, len(content))]
    for place in [*ends, *rng.integers(0, len(content), 1000)]:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.integers(8)
        refusal(bytes(changed))
        refusal(content[:place])
    refusal(content + b"\0")


@pytest.mark.parametrize(
    "change",
    [
        {"round": -1},
        {"round": 1.0},
        {"round": True},
        {"round": 2**63},
        {"count": -1},
        {"count": 2**28 + 1},
        {"masks": "0123"},
        {"masks": "0123456789ABCDEF"},
        {"masks": None},
        {"bound": 0.0},
        {"bound": float("nan")},
        {"bound": float("inf")},
        {"bound": "2"},
    ],
)
def test_impossible_terms_are_refused(change):
    fields = {"round": 7, "masks": MASKS, "count": 3, "bound": 2.0}
    with pytest.raises(InputError, match=r"must|at most|it has 16"):
        encrypted.Terms(**fields | change)
