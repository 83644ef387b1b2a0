"""Contact sheets: many scenes at one glance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def contact_sheet(pictures: Sequence[NDArray[np.uint8]], columns: int, gap: int = 4) -> Image.Image:
    """Pictures (each uint8 (h, w, 3), one shape) in rows of `columns` on a light ground."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 244, np.uint8)
    for i, picture in enumerate(pictures):
        top = gap + i // columns * (height + gap)
        left = gap + i % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return Image.fromarray(sheet)
