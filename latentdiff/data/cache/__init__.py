"""The latent cache: what the frozen networks make of a data set, kept by content."""
