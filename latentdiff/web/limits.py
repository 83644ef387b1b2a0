"""How much one server takes on, and what it says when that is too little."""

from __future__ import annotations

from dataclasses import dataclass, fields

from latentdiff.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of one server; every request is held against them before it waits in line."""

    max_pixels: int = 1024 * 1024
    """Width times height of a picture."""
    max_steps: int = 150
    """Denoising steps of a picture."""
    max_images: int = 16
    """Pictures of one job."""
    max_sweep: int = 64
    """Pictures of one sweep."""
    max_prompt: int = 4000
    """Characters of a prompt."""
    max_queue: int = 64
    """Jobs that wait, of all together."""
    max_queue_each: int = 16
    """Jobs that wait, of one browser or token."""
    max_upload_mb: int = 20
    """Megabytes of one request's body."""
    max_upload_pixels: int = 16_000_000
    """Width times height of a picture to start from, or to learn from."""
    max_lesson_pictures: int = 500
    """Pictures that one LoRA is taught from."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise UserError(f"{field.name} is {value}; expected at least 1")

    @property
    def max_body(self) -> int:
        """Bytes of one request's body."""
        return self.max_upload_mb * 1_000_000
