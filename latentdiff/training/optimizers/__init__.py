"""How weights move: optimizers, learning rate, averages, and a guard against non-finite numbers."""
