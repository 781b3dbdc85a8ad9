"""The tests meet the package as users get it."""

import os
from importlib import metadata
from pathlib import Path

import fedsparsify_jax


def test_check_sh_tests_what_was_installed():
    source = Path(__file__).parents[1] / "fedsparsify_jax"
    imported = Path(fedsparsify_jax.__file__).parent
    if os.environ.get("FEDSPARSIFY_INSTALLED"):
        assert imported != source
        assert (imported / "py.typed").is_file()
        assert fedsparsify_jax.__version__ == metadata.version("fedsparsify_jax")
    for path in source.rglob("*.py"):
        copy = imported / path.relative_to(source)
        assert copy.read_bytes() == path.read_bytes(), f"{path} is not installed as is"


def test_every_public_name_is_there():
    for name in fedsparsify_jax.__all__:
        assert hasattr(fedsparsify_jax, name)
