"""Progress, summaries and loggers."""
