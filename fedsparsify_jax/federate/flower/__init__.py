"""Flower as the network of a federation: the only place that knows it."""
