"""Surroundings of a round: faults, attacks, clipping, a moving average, a setup."""
