"""Networks as graphs of a few operations, for compaction and for other runtimes."""
