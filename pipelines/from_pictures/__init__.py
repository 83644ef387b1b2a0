"""Pictures from pictures: sources, masks, inversion, blends, tiles, a second pass."""
