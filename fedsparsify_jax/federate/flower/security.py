"""Certificates and keys of a federation, made with ``cryptography``, a part of flwr.

Flower 1.42 encrypts with TLS, and lets a SuperLink accept only nodes whose public keys
were registered with it (``flwr supernode register``). `commands` has the options of
both sides. By hand::

    python -m fedsparsify_jax.federate.flower.security certificates DIR --host NAME
    python -m fedsparsify_jax.federate.flower.security key DIR NAME
"""

import argparse
import datetime
import ipaddress
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.flower.commands import Tls

DAYS = 365
"""Days for which certificates are valid."""
_LOCAL = ("localhost", "127.0.0.1")


def make_certificates(directory: Path, hosts: Sequence[str] = ()) -> Tls:
    """Makes an authority, and a server's certificate that it signs.

    The authority's private key is thrown away, so that nothing else is ever signed by
    it; a new server means new certificates for all.

    Args:
      directory: where; made if there is none.
      hosts: the server's names and addresses, besides localhost and 127.0.0.1.

    Raises:
      InputError: if one of the files exists.
    """
    tls = Tls(
        authority=directory / "ca.crt",
        certificate=directory / "server.pem",
        key=directory / "server.key",
    )
    _refuse_existing(tls)
    signing, key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    issuer = _name("fedsparsify authority")
    authority = _builder(issuer, issuer, signing.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    names = x509.SubjectAlternativeName(
        [_general_name(host) for host in dict.fromkeys((*_LOCAL, *hosts))]
    )
    subject = _name("fedsparsify server")
    server = _builder(subject, issuer, key.public_key()).add_extension(
        names, critical=False
    )
    _write(tls.authority, _pem(authority.sign(signing, hashes.SHA384())))
    _write(tls.certificate, _pem(server.sign(signing, hashes.SHA384())))
    _write(
        tls.key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return tls


def make_node_key(directory: Path, name: str) -> Path:
    """Makes a node's pair of keys.

    Args:
      directory: where; made if there is none.
      name: the private key's file; the public key's ends in ``.pub``.

    Returns:
      The file of the private key, which stays with the node.

    Raises:
      InputError: if one of the files exists.
    """
    private, public = directory / name, directory / f"{name}.pub"
    _refuse_existing((private, public))
    key = ec.generate_private_key(ec.SECP384R1())
    _write(
        private,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    _write(
        public,
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        ),
    )
    return private


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=DAYS))
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _refuse_existing(paths: Sequence[Path]) -> None:
    for path in paths:
        if path.exists():
            raise InputError(f"{path} exists: choose another directory or name")


def _write(path: Path, content: bytes) -> None:
    """Writes a file that only this user may read."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes certificates or a pair of keys; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fedsparsify_jax.federate.flower.security",
        description="Makes the certificates of a server, or the keys of a node.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    server = kinds.add_parser("certificates", help="of a server")
    server.add_argument("directory", type=Path)
    server.add_argument(
        "--host", action="append", default=[], help="a name or address of the server"
    )
    node = kinds.add_parser("key", help="a pair of keys of a node")
    node.add_argument("directory", type=Path)
    node.add_argument("name")
    options = parser.parse_args(arguments)
    try:
        if options.kind == "certificates":
            make_certificates(options.directory, options.host)
        else:
            make_node_key(options.directory, options.name)
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
