"""Samplers: DDPM, DDIM and its inverse, and an adapter for every diffusers scheduler."""
