"""Surroundings of a round: faults, attacks, clipping, noise, an average, a setup."""
