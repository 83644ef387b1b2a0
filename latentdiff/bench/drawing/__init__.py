"""Races of drawing: pictures, cold starts, opening."""
