"""Picture files to pixels, without trusting a byte of them."""
