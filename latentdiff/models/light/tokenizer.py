"""CLIP's byte-pair tokenizer over the `tokenizers` library, as transformers' `CLIPTokenizer` builds
it: read from a model's folder, or made of a vocabulary and its merges."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentdiff.files.json_file import read_json

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
"""What a text is cut into before bytes are paired (openai/CLIP clip/simple_tokenizer.py)."""
MARKS = ("bos_token", "eos_token", "unk_token", "pad_token")
SILENT = (
    *("add_prefix_space", "split_special_tokens", "name_or_path", "special_tokens_map_file"),
    *("tokenizer_class", "tokenizer_file", "backend", "is_local", "local_files_only", "errors"),
    *("do_lower_case", "clean_up_tokenization_spaces", "max_length", "stride", "use_fast"),
    *("truncation_strategy", "pad_to_multiple_of", "pad_token_type_id", "model_max_length"),
    *("padding_side", "truncation_side", *MARKS),
)
"""Keys of a tokenizer_config.json that are read here, or change nothing."""
FIXED = {
    "add_prefix_space": False,
    "split_special_tokens": False,
    "padding_side": "right",
    "truncation_side": "right",
    "pad_token_type_id": 0,
}
"""What must stand there, if anything does."""
FLAGS = ("lstrip", "rstrip", "normalized", "single_word")
ENDLESS = 10**9
"""A longest prompt above it is none."""

Mark = str | Mapping[str, Any]
"""A mark as it is written: its text, or its text as `content` with what transformers'
`AddedToken` takes besides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipTokenizer:
    """What drawing asks of a tokenizer; the names are those of transformers."""

    backend_tokenizer: Tokenizer
    model_max_length: int
    bos_token: str
    eos_token: str
    unk_token: str
    pad_token: str
    padding_side: str = field(default="right", init=False)
    truncation_side: str = field(default="right", init=False)

    def _id(self, token: str) -> int:
        found = self.backend_tokenizer.token_to_id(token)
        assert found is not None, token
        return int(found)

    @property
    def bos_token_id(self) -> int:
        """Of the mark that begins a prompt."""
        return self._id(self.bos_token)

    @property
    def eos_token_id(self) -> int:
        """Of the mark that ends a prompt."""
        return self._id(self.eos_token)

    @property
    def pad_token_id(self) -> int:
        """Of what fills a prompt up."""
        return self._id(self.pad_token)

    def __len__(self) -> int:
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))


def make(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    marks: Mapping[str, Mark],
    max_length: int,
) -> ClipTokenizer:
    """A tokenizer of a vocabulary, in which all marks are. marks: by their names, `MARKS`."""
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    backend = Tokenizer(
        models.BPE(
            vocab=dict(vocabulary),
            merges=list(merges),
            dropout=None,
            continuing_subword_prefix="",
            end_of_word_suffix=WORD_END,
            fuse_unk=False,
            unk_token=_text(marks["unk_token"]),
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    for name in MARKS:  # of two that are written alike the last one counts
        backend.add_special_tokens([_added(marks[name])])
    made = ClipTokenizer(
        backend_tokenizer=backend,
        model_max_length=max_length,
        **{name: _text(marks[name]) for name in MARKS},
    )
    begin, end = (made.bos_token, made.bos_token_id), (made.eos_token, made.eos_token_id)
    backend.post_processor = processors.RobertaProcessing(end, begin, False, False)
    return made


def letters() -> list[str]:
    """The 256 letters that stand for bytes, in the order of CLIP's vocabulary (openai/CLIP
    clip/simple_tokenizer.py, `bytes_to_unicode`): those that print stand for themselves."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printed += range(ord("®"), ord("ÿ") + 1)
    hidden = 256 - len(printed)
    return [chr(code) for code in (*printed, *range(256, 256 + hidden))]


def _text(mark: Mark) -> str:
    return mark if isinstance(mark, str) else str(mark["content"])


def _added(mark: Mark) -> AddedToken:
    from tokenizers import AddedToken

    flags: dict[str, Any] = {"normalized": False}
    if not isinstance(mark, str):
        flags = {name: bool(mark[name]) for name in FLAGS}
    return AddedToken(_text(mark), special=True, **flags)


def read(folder: Path, positions: int) -> ClipTokenizer | None:
    """The tokenizer of a model's folder; None for one that transformers must read, or refuse.

    positions: the text encoder's, its length limit if it names none.
    """
    try:
        return _read(folder, positions)
    except Exception:  # of many kinds, the library's own among them
        return None


def _read(folder: Path, positions: int) -> ClipTokenizer | None:
    config = read_json(folder / "tokenizer_config.json")
    odd = any(config.get(key, value) != value for key, value in FIXED.items())
    if odd or (folder / "added_tokens.json").exists() or not set(config) <= set(SILENT):
        return None
    limit = config.get("model_max_length")
    length = positions if limit is None or limit > ENDLESS else int(limit)
    marks, whole = _marks(config, folder), folder / "tokenizer.json"
    if not whole.is_file():
        vocabulary = read_json(folder / "vocab.json")
        lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        pairs = (line.partition(" ") for line in lines if line and not line.startswith("#version"))
        return make(vocabulary, [(left, right) for left, _, right in pairs], marks, length)
    written = read_json(whole)
    named = {name: _text(mark) for name, mark in marks.items()}
    if not _is_plain(written, named):
        return None
    from tokenizers import Tokenizer

    backend = Tokenizer.from_file(str(whole))
    there = {token["content"] for token in written["added_tokens"]}
    for name in MARKS:
        if named[name] not in there:
            backend.add_special_tokens([_added(marks[name])])
    return ClipTokenizer(backend_tokenizer=backend, model_max_length=length, **named)


def _marks(config: Mapping[str, Any], folder: Path) -> dict[str, Mark]:
    """The marks by name: of special_tokens_map.json, else of the config, else CLIP's."""
    place = folder / "special_tokens_map.json"
    told = read_json(place) if place.is_file() else {}
    if not set(told) <= set(MARKS):
        raise KeyError("there are marks of other kinds")
    default = dict.fromkeys(MARKS, END) | {"bos_token": START}
    return {name: told.get(name, config.get(name, default[name])) for name in MARKS}


def _is_plain(written: dict[str, Any], marks: Mapping[str, str]) -> bool:
    """Whether a tokenizer.json does what `CLIPTokenizer` does with its vocabulary, merges and
    marks, whatever else it says."""
    expected, named = json.loads(_pattern(tuple(marks.items()))), set(marks.values())
    model, pattern = written["model"], expected["model"]
    known = {token["content"]: token for token in expected["added_tokens"]}
    end, begin = (written["post_processor"][name] for name in ("sep", "cls"))
    ids = {token["content"]: token["id"] for token in written["added_tokens"]}
    return (
        all(written[key] == expected[key] for key in ("normalizer", "pre_tokenizer", "decoder"))
        and all(model[key] == pattern[key] for key in pattern if key not in ("vocab", "merges"))
        and all(
            {**token, "id": 0} == {**known[token["content"]], "id": 0}
            for token in written["added_tokens"]
        )
        and {**written["post_processor"], "sep": 0, "cls": 0}
        == {**expected["post_processor"], "sep": 0, "cls": 0}
        and end == [marks["eos_token"], ids[marks["eos_token"]]]
        and begin == [marks["bos_token"], ids[marks["bos_token"]]]
        and all(model["vocab"][mark] == ids.get(mark, model["vocab"][mark]) for mark in named)
    )


@cache
def _pattern(marks: tuple[tuple[str, str], ...]) -> str:
    """A tokenizer.json of no words but these marks."""
    named = dict(marks)
    vocabulary = {mark: k for k, mark in enumerate(dict.fromkeys(named.values()))}
    return str(make(vocabulary, [], named, 2).backend_tokenizer.to_str())
