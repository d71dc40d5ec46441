"""A run's folder: beginning, checkpoints, the loop, progress."""
