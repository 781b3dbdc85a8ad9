"""Tables of the paper, one module a document: what is run, and what its page says."""
