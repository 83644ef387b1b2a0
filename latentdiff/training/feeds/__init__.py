"""What a task learns from: batches of pictures with their captions."""
