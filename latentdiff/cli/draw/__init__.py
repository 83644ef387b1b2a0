"""Commands that draw, and that read what was drawn."""
