"""Federated algorithms, one short file a paper."""

from fedsparsify_jax.algorithms.dispfl import dispfl as dispfl
from fedsparsify_jax.algorithms.fedavg import fedavg as fedavg
from fedsparsify_jax.algorithms.feddip import feddip as feddip
from fedsparsify_jax.algorithms.feddst import feddst as feddst
from fedsparsify_jax.algorithms.fedopt import fedopt as fedopt
from fedsparsify_jax.algorithms.fedprox import fedprox as fedprox
from fedsparsify_jax.algorithms.fedrts import fedrts as fedrts
from fedsparsify_jax.algorithms.fedsparsify_global import (
    fedsparsify_global as fedsparsify_global,
)
from fedsparsify_jax.algorithms.fedsparsify_local import (
    fedsparsify_local as fedsparsify_local,
)
from fedsparsify_jax.algorithms.fedsparsify_plus import (
    fedsparsify_plus as fedsparsify_plus,
)
from fedsparsify_jax.algorithms.fedtiny import fedtiny as fedtiny
from fedsparsify_jax.algorithms.flash import flash as flash
from fedsparsify_jax.algorithms.grasp import grasp as grasp
from fedsparsify_jax.algorithms.halo import halo as halo
from fedsparsify_jax.algorithms.heterofl import fedrolex as fedrolex
from fedsparsify_jax.algorithms.heterofl import heterofl as heterofl
from fedsparsify_jax.algorithms.lotteryfl import lotteryfl as lotteryfl
from fedsparsify_jax.algorithms.one_shot import one_shot as one_shot
from fedsparsify_jax.algorithms.progfed import progfed as progfed
from fedsparsify_jax.algorithms.prunefl import prunefl as prunefl
from fedsparsify_jax.algorithms.random_pruning import random_pruning as random_pruning
from fedsparsify_jax.algorithms.rigl import rigl as rigl
from fedsparsify_jax.algorithms.slimmable import slimmable as slimmable
from fedsparsify_jax.algorithms.snip import snip as snip
from fedsparsify_jax.algorithms.ssfl import ssfl as ssfl
from fedsparsify_jax.algorithms.static import static as static
from fedsparsify_jax.algorithms.ste import ste as ste
from fedsparsify_jax.algorithms.synflow import synflow as synflow
from fedsparsify_jax.algorithms.unipts import unipts as unipts

__all__ = [
    "dispfl",
    "fedavg",
    "feddip",
    "feddst",
    "fedopt",
    "fedprox",
    "fedrolex",
    "fedrts",
    "fedsparsify_global",
    "fedsparsify_local",
    "fedsparsify_plus",
    "fedtiny",
    "flash",
    "grasp",
    "halo",
    "heterofl",
    "lotteryfl",
    "one_shot",
    "progfed",
    "prunefl",
    "random_pruning",
    "rigl",
    "slimmable",
    "snip",
    "ssfl",
    "static",
    "ste",
    "synflow",
    "unipts",
]
