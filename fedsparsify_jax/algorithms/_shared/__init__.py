"""Pieces that several algorithms are made of."""
