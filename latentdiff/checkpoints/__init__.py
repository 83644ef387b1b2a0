"""Checkpoints of a training run: safetensors and JSON, published whole or not at all."""
