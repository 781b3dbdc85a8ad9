"""Experiments on the paper's tables and figures: what is run, and what came out.

`tables` has a module a document, `lib` the machinery, `studies` what is no table.
``python -m experiments.run --list`` lists the tables.
"""
