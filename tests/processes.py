"""The command line in processes of its own."""

import os
import subprocess
import sys
from pathlib import Path

import fedsparsify_jax

ROOT = Path(fedsparsify_jax.__file__).parents[1]
MODULE = [sys.executable, "-m", "fedsparsify_jax"]


def start(arguments, directory, command=MODULE, **environment):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    changes = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "80"}
    return subprocess.Popen(
        [*command, *arguments],
        cwd=directory,
        env=os.environ | changes | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    """Status, standard output and standard error."""
    with process:
        out, err = process.communicate(timeout=300)
    return process.returncode, out, err
