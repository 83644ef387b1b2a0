"""Small trainings side by side, on the same latents, noise and budget: what a choice changes."""
