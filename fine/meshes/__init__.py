"""Meshes of the user's own: read from files, checked, turned the right way, begun with."""
