"""Draws with pipelines and judges with evaluation: what `latentdiff evaluate` calls."""
