"""Compiled programs kept between runs, in the user's cache directory."""

import os
from pathlib import Path
from typing import Any

import jax

from fedsparsify_jax.errors import InputError


def default_directory() -> Path:
    """Returns ``fedsparsify_jax/compiled`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fedsparsify_jax" / "compiled"


def enable(choice: str | None) -> Path | None:
    """Turns JAX's persistent compilation cache on.

    What the user has set in JAX itself (``JAX_COMPILATION_CACHE_DIR``,
    ``JAX_ENABLE_COMPILATION_CACHE``) is left alone.

    Args:
      choice: a directory, ``"off"``, or None for the default.

    Returns:
      The directory in use, None if there is none.

    Raises:
      InputError: if a directory that was asked for cannot be made.
    """
    config: Any = jax.config  # whose attributes are made at run time
    if choice == "off":
        config.update("jax_enable_compilation_cache", False)
    if not config.jax_enable_compilation_cache:
        return None
    set_already = config.jax_compilation_cache_dir
    if choice is None and set_already:
        return Path(set_already)
    directory = Path(choice) if choice else default_directory()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if choice is None:  # a home that cannot be written: do without
            return None
        raise InputError(
            f"--compilation-cache {directory} cannot be made: {error.strerror}"
        ) from error
    config.update("jax_compilation_cache_dir", str(directory))
    # Many small programs add up: keep what takes longer than reading it back.
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return directory
