"""Training: tasks say what is learned, the loop says how, the entry point says from where."""
