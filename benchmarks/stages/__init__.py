"""The stages of a run, each a function from the design and the tables before it to a table."""
