"""Nodes of a federation in this process, which share one compiled program."""

import json

import numpy as np
from safetensors.numpy import load_file

from fedsparsify_jax import data
from fedsparsify_jax.federate import own, server
from fedsparsify_jax.federate.cipher import Cipher
from fedsparsify_jax.federate.client_program import program_of
from fedsparsify_jax.federate.kept import Kept
from fedsparsify_jax.federate.network import Loopback
from fedsparsify_jax.federate.node import Node
from fedsparsify_jax.runner import TrainConfig

CLIENTS = 3
OPTIONS = {
    "num_clients": CLIENTS,
    "rounds": 3,
    "local_epochs": 1,
    "train_subset": 90,
    "final_sparsity": 0.8,
    "cohort": "map",
    "chunk_size": 1,
    "devices": 1,
    "compilation_cache": "off",
}
_PROGRAMS = {}


def shared(config, dataset, model, longest):
    """The program of all nodes with the same options."""
    key = (json.dumps(vars(config), default=str), longest)
    if key not in _PROGRAMS:
        _PROGRAMS.clear()  # those of earlier tests
        _PROGRAMS[key] = program_of(config, dataset, model, longest)
    return _PROGRAMS[key]


def node(number, directory=None, keys=None, mine=None):
    """A node that was just started."""

    def load(plan):
        return own.loaded(number, mine or {}, plan)

    return Node(number, load, Kept(directory), Cipher(keys), shared).answer


def network(answers=None):
    """A network whose node 10 + k is client k."""
    answers = answers or {k: node(k) for k in range(CLIENTS)}
    return Loopback({10 + number: answer for number, answer in answers.items()})


def config(out, **options):
    return TrainConfig(**OPTIONS | options, out=out)


def federated(out, nodes=None, settings=None, console=None, **options):
    """Trains over a network; returns the records of its rounds."""
    server.train(nodes or network(), config(out, **options), settings, console)
    return records(out)


def records(out):
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def model(out):
    return load_file(out / "model" / "model.safetensors")


def same_models(one, other, atol=0.0):
    one, other = model(one), model(other)
    return one.keys() == other.keys() and all(
        np.allclose(one[name], other[name], rtol=0, atol=atol) for name in one
    )


def without(record, *fields):
    """A record without what differs between simulation and federation."""
    fields += ("seconds", "message_bytes_up", "message_bytes_down")
    return {name: value for name, value in record.items() if name not in fields}


def digits():
    return data.load("digits")
