"""Networks made ready to be asked many times with the same weights: the same numbers, sooner."""
