"""From a mesh and its colours to files: clean, unwrap, bake, write, and read back to compare."""
