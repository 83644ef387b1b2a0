"""Training data: pictures with their records, in memory-mapped pools and latent caches."""
