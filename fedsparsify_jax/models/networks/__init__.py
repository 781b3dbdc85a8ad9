"""The networks of the experiments, one file an architecture."""
