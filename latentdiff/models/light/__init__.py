"""Networks and tokenizers of Stable Diffusion, read from their files without the libraries that
trained them: what drawing needs of diffusers and transformers, whose import takes longer than a
picture."""
