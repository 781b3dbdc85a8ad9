"""All that is done by SEAL, in the package ``tenseal``: keys, encryption, decryption.

Ciphertexts come and go as arrays of residues ``[chunks, 2, DEGREE]``, whose additions
modulo `PRIME` are those of ciphertexts. A server therefore needs no SEAL, and bytes
from elsewhere never reach it before they have been checked.
"""

import contextlib
import functools
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedsparsify_jax.deploy.encrypted.embedding import coefficients, slots
from fedsparsify_jax.deploy.encrypted.parameters import DEGREE, PRIME
from fedsparsify_jax.errors import InputError, shown


def needs_tenseal() -> Any:
    """Returns SEAL's functions in the package ``tenseal``.

    Raises:
      InputError: with the command that installs it.
    """
    try:
        import tenseal.sealapi
    except ImportError:
        raise InputError(
            "encryption needs tenseal: pip install 'fedsparsify_jax[encrypted]'"
        ) from None
    return tenseal.sealapi


def key_pair() -> tuple[bytes, bytes]:
    """Returns a new secret key and its public one, as SEAL writes them."""
    seal, context = needs_tenseal(), _context()
    generator = seal.KeyGenerator(context)
    public = seal.PublicKey()
    generator.create_public_key(public)
    return _saved(generator.secret_key()), _saved(public)


def encrypted(polynomials: np.ndarray, public: bytes) -> np.ndarray:
    """Returns ciphertexts.

    Args:
      polynomials: ``[chunks, DEGREE]``, below 2^46.
      public: the public key, as SEAL writes it.

    Returns:
      Residues uint64 ``[chunks, 2, DEGREE]``.

    Raises:
      InputError: if the key is none.
    """
    seal, context = needs_tenseal(), _context()
    encryptor = seal.Encryptor(context, _loaded(seal.PublicKey(), public, "public key"))
    encoder, plain = seal.CKKSEncoder(context), seal.Plaintext()
    cipher = seal.Ciphertext(context)
    residues = np.empty((len(polynomials), 2 * DEGREE), np.uint64)
    for row, values in zip(residues, slots(polynomials), strict=True):
        encoder.encode(values.tolist(), context.first_parms_id(), 1.0, plain)
        encryptor.encrypt(plain, cipher)
        words = cipher.dyn_array()  # which has no way out but one by one
        row[:] = np.fromiter(map(words.__getitem__, range(row.size)), np.uint64)
    return residues.reshape(-1, 2, DEGREE)


def decrypted(residues: np.ndarray, secret: bytes) -> np.ndarray:
    """Returns polynomials with noise ``[chunks, DEGREE]``.

    Args:
      residues: uint64 ``[chunks, 2, DEGREE]``, below `PRIME`.
      secret: the secret key, as SEAL writes it.

    Raises:
      InputError: if the key is none.
    """
    seal, context = needs_tenseal(), _context()
    decryptor = seal.Decryptor(context, _loaded(seal.SecretKey(), secret, "secret key"))
    encoder, plain = seal.CKKSEncoder(context), seal.Plaintext()
    values = np.empty((len(residues), DEGREE // 2), complex)
    for row, chunk in zip(values, residues, strict=True):
        cipher = _loaded(seal.Ciphertext(context), _stream(chunk), "ciphertext")
        decryptor.decrypt(cipher, plain)
        row[:] = encoder.decode_complex(plain)
    return coefficients(values)


@functools.cache
def _context() -> Any:
    """Returns SEAL's tables for the parameters, which it finds secure or refuses."""
    seal = needs_tenseal()
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus([seal.Modulus(PRIME)])
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise InputError(
            f"this SEAL refuses the parameters ({context.parameters_error_message()}): "
            "install tenseal 0.3.18"
        )
    return context


def _stream(residues: np.ndarray) -> bytes:
    """Returns a ciphertext ``[2, DEGREE]`` as SEAL writes it without compression."""
    words = residues.astype("<u8").tobytes()
    array = _with_header(struct.pack("<Q", residues.size) + words)
    identity = struct.pack("<4Q", *_context().first_parms_id())
    # In the form of a number-theoretic transform; two polynomials; one prime; the scale
    # and the correction factor are 1.
    return _with_header(
        identity + struct.pack("<BQQQdQ", 1, 2, DEGREE, 1, 1.0, 1) + array
    )


def _with_header(body: bytes) -> bytes:
    header = needs_tenseal().Serialization.SEALHeader()
    size, versions = 16, (header.version_major, header.version_minor)
    return (
        struct.pack("<HBBBBHQ", 0xA15E, size, *versions, 0, 0, size + len(body)) + body
    )


def _saved(thing: Any) -> bytes:
    with _scratch() as path:
        thing.save(path)
        return Path(path).read_bytes()


def _loaded(thing: Any, content: bytes, name: str) -> Any:
    with _scratch() as path:
        Path(path).write_bytes(content)
        try:
            thing.load(_context(), path)
        except (ValueError, RuntimeError) as error:
            raise InputError(f"this is no {name} ({shown(str(error))})") from error
    return thing


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    """Lends the path of a file, in memory alone if the system has such."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("fedsparsify")
        try:
            yield f"/proc/self/fd/{number}"
        finally:
            os.close(number)
        return
    with tempfile.TemporaryDirectory() as directory:  # which nobody else may read
        yield str(Path(directory) / "object")
