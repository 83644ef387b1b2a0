"""The parts of a walk: batches, legs, prompts, embeds, notes."""
