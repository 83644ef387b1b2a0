"""Pools of rendered scenes, and the latents of their pictures."""
