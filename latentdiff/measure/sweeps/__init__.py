"""Grids over settings, and how good the pictures are in each cell."""
