"""Formats of model files, one module each."""
