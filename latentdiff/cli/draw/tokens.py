"""`latentdiff tokens "a (cat:1.3)"`: every token with its chunk and weight, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tyro

from latentdiff import config as configs
from latentdiff.conditioning.settings import Long, Syntax
from latentdiff.errors import UserError

if TYPE_CHECKING:
    from latentdiff.conditioning.prompt_language import Prompt
    from latentdiff.conditioning.prompt_weights import WeightedText
    from latentdiff.conditioning.weighted_text import Token


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """Which prompt, read how, by which model's tokenizer."""

    prompt: tyro.conf.Positional[str] = ""
    """The prompt, in quotes."""
    model: str = "snowglobe"
    """snowglobe, a Stable Diffusion 1.x / 2.x folder in diffusers format, a single .safetensors
    checkpoint, or a hub id."""
    prompt_syntax: Syntax = "a1111"
    """How it is read."""
    long_prompts: Long = "truncate"
    """Prompts over the limit: cut there, or encoded in pieces."""
    steps: int = 25
    """Of a prompt that changes on the way."""
    seed: int = 0
    """Makes the choices of {a|b|c}."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"{self.steps} steps are out of range; expected 1 or more")


def main(argv: Sequence[str]) -> int:
    """Run `latentdiff tokens` and return its exit code."""
    config = configs.parse(
        TokensConfig, argv, prog="latentdiff tokens", description="Show how a prompt is read."
    )
    from latentdiff.conditioning import prompt_choices, prompt_language
    from latentdiff.models import bundle as bundles

    written = config.prompt
    if config.prompt_syntax == "a1111":
        written = prompt_choices.choose(written, config.seed, prompt_choices.OF_PROMPT)
    prompt = prompt_language.parse(written, config.prompt_syntax)
    tokenizer = bundles.load(config.model, dtype=None).light.tokenizer
    if written != config.prompt:
        print(f"chosen by seed {config.seed}: {written}\n")
    for line in describe(tokenizer, prompt, config):
        print(line)
    return 0


def describe(tokenizer: Any, prompt: Prompt, config: TokensConfig) -> Iterator[str]:
    """The ledger of each text of the prompt, a line each."""
    from latentdiff.conditioning import weighted_text

    limit = int(tokenizer.model_max_length)
    for number, part in enumerate(prompt.parts):
        if len(prompt.parts) > 1:
            yield f"part {number + 1} of {len(prompt.parts)}, weight {part.weight:g}"
        for steps, text in periods(prompt, number, config.steps):
            if prompt.varies:
                yield f"{steps}: {text.plain}"
            tokens = weighted_text.ledger(tokenizer, text, long=config.long_prompts)
            yield from table(tokens)
            kept = [token for token in tokens if token.chunk is not None]
            chunks = max([1, *(token.chunk + 1 for token in kept if token.chunk is not None)])
            yield (
                f"{len(kept)} tokens of {chunks * (limit - 2)}, "
                f"in {chunks} chunk{'s' if chunks > 1 else ''} of {limit} with their two marks"
            )
            cut, _ = weighted_text.tokenize(tokenizer, [text], long=config.long_prompts)
            if lost := cut.dropped[0]:
                yield f"lost to the limit: {' '.join(lost)}; --long-prompts chunk keeps them"
            yield ""


def periods(prompt: Prompt, part: int, steps: int) -> list[tuple[str, WeightedText]]:
    """(the steps, text) of a part, for each text it has: "steps 1 … 12 of 25"."""
    found: dict[WeightedText, list[int]] = {}
    for step in range(steps if prompt.varies else 1):
        found.setdefault(prompt.at(step, steps)[part], []).append(step + 1)

    def named(at: list[int]) -> str:
        if at == list(range(at[0], at[-1] + 1)):
            return f"steps {at[0]} … {at[-1]} of {steps}"
        few = ", ".join(map(str, at[:4]))
        return f"steps {few}{', …' if len(at) > 4 else ''} of {steps}"

    return [(named(at), text) for text, at in found.items()]


def table(tokens: Sequence[Token]) -> Iterator[str]:
    """A line a token; a word that goes on in the next token ends in a hyphen."""
    yield f"{'chunk':>6} {'place':>6} {'id':>6} {'weight':>7}  token"
    for token in tokens:
        chunk = "lost" if token.chunk is None else str(token.chunk + 1)
        place = "" if token.chunk is None else str(token.place)
        text = token.text if token.ends_word else f"{token.text}-"
        yield f"{chunk:>6} {place:>6} {token.id:>6} {token.weight:>7.4g}  {text}"
