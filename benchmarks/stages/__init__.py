"""The stages of a run: each reads the tables of the stage before it and makes its own."""
