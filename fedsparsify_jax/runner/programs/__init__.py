"""Compiled programs of runs and sweeps, and the places of their data."""
