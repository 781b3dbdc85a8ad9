"""Real federations: the same algorithms, with every client on a machine of its own."""
