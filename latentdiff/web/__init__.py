"""The local page and the JSON API beside it: one queue, one worker, a gallery of PNG files."""
