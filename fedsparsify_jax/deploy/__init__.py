"""Trained models on their way out."""
