"""The paper's tables and figures: what is run, what came out, what it says.

One file a table; `registry` lists them; ``python -m experiments.run --list`` too.
"""
