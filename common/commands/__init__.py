"""What commands share, and the commands that are not of a single run's stages."""
