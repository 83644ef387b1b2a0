"""The procedural captioned world behind the embedded model: PIL and numpy, no torch."""
