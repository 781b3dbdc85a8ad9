"""Tune: the local training of one client."""
