"""Physically based light: reflectance, procedural skies, and what they make of a material."""
