"""``fedsparsify audit``: what the models of a finished run show of its data."""
