"""What a user should know about requests before they are drawn: a line each, no error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentdiff.conditioning import text, weighted_text
from latentdiff.models.bundle import Bundle
from latentdiff.models.embedding import learned_words
from latentdiff.models.geometry import Geometry
from latentdiff.pipelines.request import Request

LORA_TAG = re.compile(r"(<lora:([^:>]+)(?::([^:>]+))?[^>]*>)")
"""A1111's way to ask for a LoRA: the tag, its name, its scale."""
LONGEST_LINE = 12
"""Lost words that are listed; of more, the number."""


def dropped_words(tokenizer: Any, requests: Sequence[Request]) -> dict[str, tuple[str, ...]]:
    """Prompt → the words that the tokenizer's limit cuts off, for prompts that lose any.

    Of a prompt that changes on the way, or is composed, the words that any of its texts loses.
    """
    found: dict[str, tuple[str, ...]] = {}
    for r in requests:
        if r.long_prompts != "truncate":
            continue
        for written, prompt in zip((r.prompt, r.negative_prompt), r.language(), strict=True):
            if written in found:
                continue
            texts = prompt.texts(r.num_inference_steps or 1)
            lost = weighted_text.tokenize(tokenizer, texts)[0].dropped
            found[written] = tuple(dict.fromkeys(word for words in lost for word in words))
    return {prompt: words for prompt, words in found.items() if words}


def lost(dropped: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each prompt that loses words."""
    lines = []
    for words in dropped.values():
        more = len(words) - LONGEST_LINE
        tail = f" … and {more} more" if more > 0 else ""
        lines.append(f"lost to the tokenizer's limit: {' '.join(words[:LONGEST_LINE])}{tail}")
    return lines


def without_effect(geometry: Geometry, requests: Sequence[Request]) -> list[str]:
    """Settings of resolved requests that do less than their names promise, each once."""
    lines: dict[str, None] = {}
    own = geometry.own_size
    for r in requests:
        for tag, name, scale in LORA_TAG.findall(r.prompt):
            lines[
                f"{tag} in the prompt is read as words; give the file by "
                f"--lora {name}.safetensors:{scale or 1}"
            ] = None
        if not r.guidance.active:
            if r.negative_prompt:
                lines[
                    f"guidance scale {r.guidance_scale:g} is no guidance: "
                    "the negative prompt has no effect; use a scale above 1"
                ] = None
            if r.guidance_scale != 1.0:
                lines[f"guidance scale {r.guidance_scale:g} draws what 1 draws: no guidance"] = None
        if r.source is not None and (strength := r.source.strength) is not None and strength < 1:
            asked = r.num_inference_steps or 0
            lines[f"strength {strength:g}: {int(asked * strength)} of {asked} steps are walked"] = (
                None
            )
        if r.long_prompts != "chunk" and any(
            span.breaks for prompt in r.language() for one in prompt.at(0, 1) for span in one.spans
        ):
            lines["BREAK has no effect unless long prompts are encoded in chunks"] = None
        if own is not None and (r.height, r.width) != own:
            lines[
                f"the model was made for {own[1]} x {own[0]} pixels; {r.width} x {r.height} may "
                "repeat subjects or lose shapes"
            ] = None
    return list(lines)


def unknown_words(bundle: Bundle, prompts: Sequence[str], known: Sequence[str] = ()) -> list[str]:
    """Words that the model's captions never held, for models that say which they did.

    known: more words, such as those that LoRAs bring. Learned words that were added are known.
    """
    vocabulary = bundle.card.get("vocabulary")
    if not vocabulary:
        return []
    vocabulary = [*vocabulary, *" ".join(known).split(), *learned_words(bundle)]
    strange = text.unknown_words("\n".join(prompts), vocabulary)
    lines = []
    for word, close in strange.items():
        hint = f"; nearest: {', '.join(close)}" if close else ""
        lines.append(f"its captions never held {word!r}{hint}")
    if lines:
        name = Path(bundle.source).name
        lines.append(f"`latentdiff info {name}` lists what it knows")
    return lines
