"""The priors of the toybox: the exact one, the learned one and its training."""
