"""The networks: autoencoder, denoiser, text encoder, and the bundle that loads and saves them."""
