"""Clients on disk: a header, a writer and a reader."""
