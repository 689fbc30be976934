"""What every run needs: atomic files, checkpoints, run folder, compilation, signals, console."""
