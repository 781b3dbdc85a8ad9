"""Machinery of the tables: what is run, collected, compared, and written."""
