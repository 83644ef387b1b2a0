"""From a prompt to what the denoiser sees: text encoding and guidance."""
