"""Lessons: pictures and captions in a folder, looked through, rehearsed, and taught as a LoRA."""
