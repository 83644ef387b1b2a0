"""From a batch's prompts to a denoiser that obeys them: reading, choices, contexts by step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from latentdiff.conditioning import prompt_choices, weighted_text
from latentdiff.conditioning.guidance import ComposedDenoiser, GuidedDenoiser, Predict
from latentdiff.conditioning.prompt_language import Prompt
from latentdiff.conditioning.prompt_weights import WeightedText
from latentdiff.errors import UserError
from latentdiff.models.bundle import Bundle
from latentdiff.models.denoiser import Denoiser, ReadyUnet
from latentdiff.pipelines.request import Request
from latentdiff.pipelines.walk.batch import Batch
from latentdiff.sampling import ContextAt, check_finite


@dataclass(frozen=True)
class PromptPlan:
    """Which texts the network is told at which step of a batch.

    negatives: a prompt for each picture, none without guidance. steps: as asked for.
    """

    prompts: tuple[Prompt, ...]
    negatives: tuple[Prompt, ...]
    steps: int

    @property
    def varies(self) -> bool:
        """Whether any text changes on the way."""
        return any(prompt.varies for prompt in (*self.prompts, *self.negatives))

    @property
    def composed(self) -> bool:
        """Whether any prompt has several parts."""
        return len(self.owners) > len(self.prompts)

    @property
    def owners(self) -> tuple[int, ...]:
        """For each part of each prompt, the picture it belongs to."""
        return tuple(k for k, prompt in enumerate(self.prompts) for _ in prompt.parts)

    @property
    def weights(self) -> tuple[float, ...]:
        """For each part of each prompt, its weight in the composition."""
        return tuple(weight for prompt in self.prompts for weight in prompt.weights)

    def at(self, index: int, total: int) -> list[WeightedText]:
        """The texts of the network's rows at step `index` of `total`: negative ones first, then
        every part of every prompt. In a walk that is longer than was asked for, as Heun's, prompts
        change when the same share of it is done."""
        steps = min(self.steps, total)
        step = index * steps // total
        return [text for p in (*self.negatives, *self.prompts) for text in p.at(step, steps)]

    def texts(self, total: int) -> list[WeightedText]:
        """All of them, each once."""
        count = total if self.varies else 1
        return list(dict.fromkeys(text for k in range(count) for text in self.at(k, total)))


def plan_of(batch: Batch) -> PromptPlan:
    """The plan of a batch of resolved requests."""
    read = [request.language() for request in batch.requests]
    steps = batch.shared.num_inference_steps
    assert steps is not None, "resolve the requests first"
    return PromptPlan(
        tuple(prompt for prompt, _ in read),
        tuple(negative for _, negative in read) if batch.shared.guidance.active else (),
        steps,
    )


def guided(bundle: Bundle, unet: ReadyUnet, batch: Batch, mask: Tensor | None) -> Predict:
    """The denoiser of a batch that is told (B, L, D), or (2B, L, D), guidance inside."""
    network = _network(bundle, unet, batch.shared, mask)
    guidance = batch.shared.guidance
    timesteps = bundle.scheduler_config.num_train_timesteps
    return GuidedDenoiser(network, guidance, timesteps) if guidance.active else network


def _network(
    bundle: Bundle, unet: ReadyUnet, request: Request, mask: Tensor | None = None
) -> Denoiser:
    predicts = bundle.scheduler_config.prediction_type
    return Denoiser(unet, predicts, mask, deep_cache_interval=request.deep_cache_interval)


def fixed_context(bundle: Bundle, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The context (B, L, D), or (2B, L, D), of a batch for all steps, and what its mask hides.

    Raises UserError for prompts that change on the way or are composed: those have several.
    """
    plan = plan_of(batch)
    if plan.varies or plan.composed:
        raise UserError(
            "a blend of prompts needs prompts that neither change on the way nor are joined by AND"
        )
    encoded = _encoded(bundle, batch.shared, plan.texts(plan.steps))
    rows = encoded.rows(plan.at(0, plan.steps))
    mask = None if encoded.mask is None else encoded.mask[rows.cpu()]
    return encoded.context[rows], mask


def _encoded(
    bundle: Bundle, request: Request, texts: Sequence[WeightedText]
) -> weighted_text.Encoded:
    encoded = weighted_text.encode(
        bundle.light.tokenizer,
        bundle.light.text_encoder,
        texts,
        long=request.long_prompts,
        clip_skip=request.clip_skip,
        syntax=request.prompt_syntax,
    )
    check_finite(encoded.context, "the text encoder", "for these prompts")
    return encoded


def condition(bundle: Bundle, unet: ReadyUnet, batch: Batch) -> tuple[Predict, Tensor | ContextAt]:
    """The batch's denoiser, guidance and composition inside, and the context it is told: for all
    steps, or for each where a prompt changes on the way. unet: the bundle's."""
    request, plan = batch.shared, plan_of(batch)
    network = _network(bundle, unet, request)
    denoiser: Predict = network
    if plan.composed:
        check_composed(request)
        denoiser = ComposedDenoiser(network, request.guidance, plan.owners, plan.weights)
    elif plan.negatives:
        timesteps = bundle.scheduler_config.num_train_timesteps
        denoiser = GuidedDenoiser(network, request.guidance, timesteps)

    @functools.cache
    def encoded_for(total: int) -> weighted_text.Encoded:
        return _encoded(bundle, request, plan.texts(total))

    @functools.cache
    def told(total: int, texts: tuple[WeightedText, ...]) -> tuple[Tensor, Tensor | None]:
        encoded = encoded_for(total)
        rows = encoded.rows(texts)
        mask = None if encoded.mask is None else encoded.mask[rows.cpu()]
        return encoded.context[rows], mask

    def at(index: int, total: int) -> Tensor:
        # The same texts are the same tensor, whose keys and values need no second making.
        context, mask = told(total, tuple(plan.at(index, total)))
        network.hide(mask)
        return context

    return denoiser, at if plan.varies else at(0, plan.steps)


def resolve(request: Request) -> Request:
    """A resolved request with the choices of its prompts made by its seed, and checked whole."""
    listed = request.given is not None and request.given.word_lists is not None
    if listed and request.prompt_syntax != "a1111":
        raise UserError(
            f"word lists mean nothing in prompts of the syntax {request.prompt_syntax}; leave "
            "one of the two out"
        )
    if request.prompt_syntax == "a1111" and request.template is None:
        request = _chosen(request)
    prompt, negative = request.language()
    steps = request.num_inference_steps
    assert steps is not None, "steps come first"
    for one in (prompt, negative):
        one.texts(steps)  # a weight may be out of bounds in a text of a later step alone
    if len(prompt.parts) > 1:
        check_composed(request)
    return request


def check_composed(request: Request) -> None:
    """UserError unless a request whose prompts are joined by AND has the guidance for it."""
    if not request.guidance.active:
        raise UserError(
            f"AND composes by guidance, and guidance scale {request.guidance_scale:g} is none; "
            "use a scale above 1"
        )
    if (request.guidance.start, request.guidance.end) != (0.0, 1.0):
        raise UserError("AND composes by guidance at every step; leave its start and end out")


def _chosen(request: Request) -> Request:
    given = request.given
    lists = None if given is None else given.word_lists
    assert request.seed is not None, "the seed comes first"
    prompt, negative = (
        prompt_choices.choose(written, request.seed, purpose, lists)
        for written, purpose in (
            (request.prompt, prompt_choices.OF_PROMPT),
            (request.negative_prompt, prompt_choices.OF_NEGATIVE),
        )
    )
    changed = (prompt, negative) != (request.prompt, request.negative_prompt)
    return replace(
        request,
        prompt=prompt,
        negative_prompt=negative,
        given=None if given is None else replace(given, word_lists=None),
        template=request.prompt if changed else None,
    )


def spoken(requests: Sequence[Request]) -> list[str]:
    """The words of prompts without the language around them, for whoever looks words up."""
    found: dict[str, None] = {}
    for request in requests:
        prompt, _ = request.language()
        for text in prompt.texts(request.num_inference_steps or 1):
            found[text.plain] = None
    return list(found)
