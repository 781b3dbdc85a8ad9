"""Run directories, checkpoints, manifests and locks."""
