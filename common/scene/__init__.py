"""What a picture is made of: cameras, lamps, meshes, images."""
