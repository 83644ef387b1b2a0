"""What is learned: one task a network."""
