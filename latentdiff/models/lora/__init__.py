"""LoRA: layers to train, files in every layout, changes to add to a model."""
