"""kohya's folders: `10_sks dog/` means ten repeats of its pictures, captioned "sks dog".

A picture's own caption file goes before the folder's words. Repeats weigh the folders against
each other: with 10_ and 5_, pictures of the first are seen twice as often as those of the second.
`img/` with such folders may stand beside `reg/`, the regularisation pictures, which are a data
set of their own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from latentdiff.data.sources.listing import Listing
from latentdiff.errors import UserError

_FOLDER = re.compile(r"(\d{1,5})_(\S.*)")
_BESIDE = ("img", "images", "image", "reg", "model", "log")


def folder_words(name: str) -> tuple[int, str] | None:
    """ "10_sks dog" -> (10, "sks dog"); None for a name of another kind. 0 repeats: never seen."""
    match = _FOLDER.fullmatch(name)
    return (int(match.group(1)), match.group(2)) if match else None


def _tops(pictures: Sequence[bytes], depth: int) -> set[str]:
    """The names of the folders at a depth; "" for a picture that does not lie so deep."""
    parts = (picture.split(b"/") for picture in pictures)
    return {p[depth].decode("utf-8", "replace") if len(p) > depth + 1 else "" for p in parts}


def is_kohya(listing: Listing) -> bool:
    """Whether every picture lies in a folder such as `10_sks dog`."""
    return bool(listing.pictures) and all(map(folder_words, _tops(listing.pictures, 0)))


def refuse_root(name: str, listing: Listing) -> None:
    """UserError for the folder above `img/` and `reg/`, which says how to open the two."""
    tops = _tops(listing.pictures, 0)
    if (
        not tops
        or not tops <= set(_BESIDE)
        or not all(map(folder_words, _tops(listing.pictures, 1)))
    ):
        return
    training = next((top for top in _BESIDE[:3] if top in tops), None)
    if training is None:
        return
    regular = (
        f", and its regularisation pictures by --prior-data {name}/reg" if "reg" in tops else ""
    )
    raise UserError(
        f"{name} is the folder of a kohya training: open its pictures by {name}/{training}{regular}"
    )
