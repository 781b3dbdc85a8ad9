"""Compiled programs of runs and sweeps, and where their data lie."""
