"""The prompt that a generator left in its PNG file: AUTOMATIC1111's, ComfyUI's, and our own.

Only the text chunks before the pixels are read (PNG specification, 11.3.4); nothing is decoded.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from latentdiff.data.records import BadPicture

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT = 4 << 20  # bytes of one text, unpacked
_MAX_CHUNKS = 1000


def prompt_of(data: bytes) -> str:
    """The positive prompt in a PNG file. Raises BadPicture "caption-missing" when it has none."""
    if not data.startswith(_SIGNATURE):
        raise BadPicture("caption-missing", "not a PNG file, so it holds no prompt")
    texts = dict(_texts(data))
    if "parameters" in texts:
        return _of_parameters(texts["parameters"])
    for key in ("latentdiff", "prompt"):
        if key in texts:
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(texts[key])
                found = value.get("prompt") if key == "latentdiff" else _of_nodes(value)
                if isinstance(found, str) and found.strip():
                    return found
    if texts.get("Description", "").strip():  # ours for viewers, and the standard's own keyword
        return texts["Description"]
    raise BadPicture("caption-missing", "the PNG file holds no prompt that is understood")


def _texts(data: bytes) -> Iterator[tuple[str, str]]:
    """(keyword, text) of every text chunk before the pixels."""
    position = len(_SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        head = data[position : position + 8]
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head)
        body = data[position + 8 : position + 8 + size]
        if kind in (b"IDAT", b"IEND") or len(body) < size:
            return
        keyword, _, rest = body.partition(b"\0")
        text = _text(kind, rest)
        if text is not None:
            yield keyword.decode("latin-1"), text
        position += 12 + size


def _text(kind: bytes, rest: bytes) -> str | None:
    """The text of a chunk after its keyword; None for other chunks and for damaged ones."""
    if kind == b"tEXt":
        # The standard says Latin-1; generators write UTF-8 there too.
        with contextlib.suppress(UnicodeDecodeError):
            return rest.decode("utf-8")
        return rest.decode("latin-1")
    packed, encoding = False, "latin-1"
    if kind == b"zTXt":
        packed, rest = True, rest[1:]
    elif kind == b"iTXt":
        packed, encoding = rest[:1] == b"\1", "utf-8"
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        return None
    if packed:
        try:
            rest = zlib.decompressobj().decompress(rest, _MAX_TEXT)
        except zlib.error:
            return None
    return rest.decode(encoding, "replace")


def _of_parameters(text: str) -> str:
    """AUTOMATIC1111: the prompt, then "Negative prompt: …", then "Steps: …, Sampler: …"."""
    kept = re.split(r"^(?:Negative prompt:|Steps: \d)", text, maxsplit=1, flags=re.MULTILINE)[0]
    if not kept.strip():
        raise BadPicture("caption-missing", "the prompt in the PNG file is empty")
    return kept


def _of_nodes(nodes: Any) -> str | None:
    """ComfyUI: the text that is wired to the input `positive` of a sampler."""
    if not isinstance(nodes, dict):
        return None
    for node in nodes.values():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if isinstance(inputs, dict) and "positive" in inputs:
            found = _wired(nodes, inputs["positive"], set())
            if found is not None:
                return found
    return None


def _wired(nodes: dict[str, Any], link: Any, passed: set[str]) -> str | None:
    """Follow a link ["node", output] through conditioning nodes to the text at its end."""
    if isinstance(link, str):
        return link
    if not (isinstance(link, list) and link and isinstance(link[0], str)) or link[0] in passed:
        return None
    passed.add(link[0])
    node = nodes.get(link[0])
    inputs = node.get("inputs") if isinstance(node, dict) else None
    if not isinstance(inputs, dict):
        return None
    for name in ("text", "text_g", "string", "value", "conditioning", "conditioning_1", "positive"):
        if name in inputs:
            found = _wired(nodes, inputs[name], passed)
            if found is not None:
                return found
    return None
