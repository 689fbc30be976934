"""How a run survives: whole files, checkpoints, run folder, compilation, signals, console."""
