"""Neural fields: hash grids and the small networks on them."""
