"""Priors: text-to-image models seen through one interface, one file a family."""
