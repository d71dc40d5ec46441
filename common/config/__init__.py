"""Every setting of a run, and the files that hold them."""
