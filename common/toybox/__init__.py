"""The toybox: a procedural world of textured objects whose truth is known for every caption."""
