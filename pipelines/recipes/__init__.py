"""What a picture keeps: its recipe, in every format, and those of other programs."""
