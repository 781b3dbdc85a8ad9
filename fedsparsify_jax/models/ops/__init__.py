"""Convolutions that are fast on CPUs, also inside `scan` and `vmap`."""
