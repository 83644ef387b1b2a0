"""Commands on model files: convert, info, lora."""
