"""A byte-pair tokenizer in CLIP's own file format, learned from a list of captions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from latentdiff.models.light.tokenizer import END, START, WORD_END

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import CLIPTokenizer


def build_tokenizer(
    captions: Iterable[str], max_length: int, *, vocab_size: int = 4096
) -> CLIPTokenizer:
    """Learn byte-pair merges from captions (or bare words) and return a `CLIPTokenizer`.

    Every word of `captions` becomes a single token as long as `vocab_size` (the upper bound of
    tokens) allows; any other text still tokenizes, into smaller pieces down to bytes. Text is
    lower-cased and white space collapsed, as CLIP does. Frequencies are ignored: each distinct
    word counts once, so the result depends on the set of words alone, not on their order.
    max_length: tokens of a prompt, begin and end marks included.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    splitter = CLIPTokenizer().backend_tokenizer
    words = sorted(
        {
            piece
            for text in captions
            for piece, _ in splitter.pre_tokenizer.pre_tokenize_str(
                splitter.normalizer.normalize_str(text)
            )
        }
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 2,
        min_frequency=0,
        show_progress=False,
        initial_alphabet=alphabet,
        # Known beforehand, word-final letters have fixed ids; in the trainer's own hash order
        # they would break ties between merges differently at every call.
        special_tokens=[letter + WORD_END for letter in alphabet],
        end_of_word_suffix=WORD_END,
    )
    learner.train_from_iterator(words, trainer)
    merges = _merges(learner)
    tokens = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    known = set(tokens)
    for left, right in merges:
        if left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
    vocab = {token: index for index, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=max_length,
    )


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merges that a `tokenizers.Tokenizer` learned, in order."""
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    pairs = (pair.split(" ") if isinstance(pair, str) else pair for pair in merges)
    return [(left, right) for left, right in pairs]
