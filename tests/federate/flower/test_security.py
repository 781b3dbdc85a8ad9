"""Encrypted federations whose nodes have keys, which need flwr."""

import stat

import flower_processes
import pytest

from fedsparsify_jax.errors import InputError

pytest.importorskip("flwr", reason="flwr is not installed: see tools/federate_env.sh")

import ipaddress
import json
import time

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from fedsparsify_jax.federate.flower import commands, local, ports, project, security
from fedsparsify_jax.federate.processes import guarded


def loaded(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_authority_signs_the_server_for_its_hosts(tmp_path):
    tls = security.make_certificates(tmp_path / "tls", ["s.example.org", "10.0.0.7"])
    authority, server = loaded(tls.authority), loaded(tls.certificate)
    server.verify_directly_issued_by(authority)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "s.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("127.0.0.1"),
        ipaddress.ip_address("10.0.0.7"),
    ]


def test_another_authority_has_not_signed_it(tmp_path):
    tls = security.make_certificates(tmp_path / "a")
    other = security.make_certificates(tmp_path / "b")
    with pytest.raises(InvalidSignature):
        loaded(tls.certificate).verify_directly_issued_by(loaded(other.authority))


def test_files_are_for_their_user_alone_and_never_replaced(tmp_path):
    directory = tmp_path / "tls"
    assert security.main(["certificates", str(directory), "--host", "a.org"]) == 0
    assert security.main(["key", str(directory), "north"]) == 0
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in directory.iterdir()}
    names = ("ca.crt", "server.pem", "server.key", "north", "north.pub")
    assert modes == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    with pytest.raises(InputError, match=r"ca\.crt exists: choose another"):
        security.make_certificates(directory)
    with pytest.raises(InputError, match="north exists: choose another"):
        security.make_node_key(directory, "north")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("secure")
    with flower_processes.surroundings(directory):
        yield directory


@pytest.fixture(scope="module")
def tls(place):
    return security.make_certificates(place / "tls")


@pytest.fixture(scope="module")
def keys(place):
    return [security.make_node_key(place / "keys", name) for name in ("a", "b")]


@pytest.fixture(scope="module")
def running(place, tls, keys):
    with local.federation(
        place / "federation",
        [{"name": "north"}, {"name": "south"}],
        answer="federation_toys:counting",
        tls=tls,
        keys=keys,
    ) as federation:
        yield federation


def answers(federation, directory):
    out = directory / "out.json"
    settings = {"server": "federation_toys:asking", "messages": "hello", "nodes": 2}
    settings |= {"timeout": 60, "out": str(out)}
    outcome = federation.run(project.write(directory / "project", settings))
    assert outcome.status == "completed"
    return [
        content.split()[0] for content, _ in json.loads(out.read_text())[0]["replies"]
    ]


def test_registered_nodes_answer_over_tls(running, tmp_path):
    assert answers(running, tmp_path) == ["north", "south"]


def intruder(running, directory, authority, key):
    """Starts a node that should not get in; returns why it ended."""
    path = directory / "none.sock"
    port = ports.free(1)[0]
    command = commands.supernode(
        running.address, port, path, authority=authority, key=key
    )
    with guarded(directory / "logs") as processes:
        process = processes.start("intruder", command, commands.environment(directory))
        deadline = time.monotonic() + 60
        while process.running():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return str(process.failure())


def test_a_node_without_a_key_is_refused(running, tls, tmp_path):
    text = intruder(running, tmp_path, tls.authority, None)
    assert "All SuperNodes must be registered" in text


def test_a_node_with_an_unregistered_key_is_refused(running, tls, tmp_path):
    key = security.make_node_key(tmp_path, "stranger")
    text = intruder(running, tmp_path, tls.authority, key)
    assert "Failed to activate SuperNode" in text


def test_a_node_with_another_authority_does_not_trust_the_server(
    running, keys, tmp_path
):
    other = security.make_certificates(tmp_path / "other")
    text = intruder(running, tmp_path, other.authority, keys[0])
    assert "certificate verify failed" in text


def test_a_node_with_a_key_keeps_its_number_when_it_comes_back(running, tmp_path):
    node = running.nodes[1]
    before = node.wait()
    node.kill()
    node.start()
    assert node.wait() == before
    assert answers(running, tmp_path) == ["north", "south"]


def test_the_server_accepts_no_plain_text(running, tmp_path):
    with guarded(tmp_path / "logs") as processes:
        port = ports.free(1)[0]
        command = commands.supernode(running.address, port, tmp_path / "none.sock")
        environment = commands.environment(tmp_path)
        process = processes.start("plain", command, environment)
        deadline = time.monotonic() + 60
        while "Connection attempt failed" not in process.output():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "SuperNode ID" not in process.output()
