"""How a prior's opinion becomes a gradient."""
