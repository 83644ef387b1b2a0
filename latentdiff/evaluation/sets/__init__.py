"""Distances between sets of pictures, from their features."""
