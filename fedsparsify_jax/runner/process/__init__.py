"""Processes, signals and the compilation cache."""
