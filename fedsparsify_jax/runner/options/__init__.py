"""The options of the command line, their rules, and what they resolve to."""
