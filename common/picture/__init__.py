"""Pictures that people bring: reading them, cutting the object out, putting it into a frame."""
