"""What a run leaves: its folder, history, validation and report."""
