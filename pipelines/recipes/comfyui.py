"""ComfyUI's pictures: the graph in their `prompt` chunk, followed from the sampler outward."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from latentdiff.errors import UserError
from latentdiff.pipelines.recipes.a1111 import Foreign, scheduler_of
from latentdiff.pipelines.request import Request

Graph = Mapping[str, Any]

SAMPLERS = ("KSampler", "KSamplerAdvanced")
UNDERSTOOD = frozenset(
    (
        *(*SAMPLERS, "CLIPTextEncode", "CLIPSetLastLayer", "EmptyLatentImage", "VAEDecode"),
        *("CheckpointLoaderSimple", "LoraLoader", "LoraLoaderModelOnly"),
        *("SaveImage", "PreviewImage"),
    )
)
FURTHEST = 64
"""Nodes that a link is followed through."""


def read_graph(text: str) -> Foreign:
    """What a graph's sampler asks for; UserError when there is none to read.

    Of several samplers the first is read. Nodes that have no counterpart here are named.
    """
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"its graph is no JSON ({error})") from error
    nodes = {str(k): v for k, v in graph.items() if _is_node(v)} if isinstance(graph, dict) else {}
    samplers = [key for key, node in nodes.items() if node["class_type"] in SAMPLERS]
    if not samplers:
        raise UserError(f"its graph of {len(nodes)} nodes has no {' or '.join(SAMPLERS)} to read")
    notes = [f"{len(samplers)} samplers: the first is read"] if len(samplers) > 1 else []
    inputs = nodes[samplers[0]]["inputs"]
    seed = _number(inputs, "seed", _number(inputs, "noise_seed", None))
    if isinstance(seed, int) and seed > 2**32 - 1:
        notes.append(f"seed {seed} is cut to its lowest 32 bits")
        seed &= 2**32 - 1
    latent = _upstream(nodes, inputs.get("latent_image"), "EmptyLatentImage")
    if latent is None:
        notes.append("it starts from a picture, which is not kept: text alone is drawn")
    model = _upstream(nodes, inputs.get("model"), "CheckpointLoaderSimple") or {}
    last = _upstream(nodes, inputs.get("positive"), "CLIPSetLastLayer") or {}
    stop = _number(last, "stop_at_clip_layer", -1)
    notes += _unkept(nodes, inputs)
    name = str(inputs.get("sampler_name", ""))
    values: dict[str, Any] = {
        "prompt": _text(nodes, inputs.get("positive"), "positive", notes),
        "negative_prompt": _text(nodes, inputs.get("negative"), "negative", notes),
        "seed": seed,
        "num_inference_steps": _number(inputs, "steps", None),
        "guidance_scale": _number(inputs, "cfg", None),
        "scheduler": scheduler_of(name, str(inputs.get("scheduler", "")), notes),
        "width": _number(latent or {}, "width", None),
        "height": _number(latent or {}, "height", None),
        "clip_skip": max(0, -int(stop or -1) - 1),
        "long_prompts": "chunk",
        "prompt_syntax": "comfyui",
    }
    try:
        request = Request(**values)
    except UserError as error:
        raise UserError(f"its settings cannot be drawn here: {error}") from error
    return Foreign(
        program="ComfyUI",
        request=request,
        model=str(model.get("ckpt_name", "")),
        notes=tuple(dict.fromkeys(notes)),
    )


def _is_node(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_type"), str)
        and isinstance(value.get("inputs"), dict)
    )


def _number(inputs: Mapping[str, Any], key: str, otherwise: Any) -> Any:
    value = inputs.get(key)
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return value if right else otherwise


def _upstream(nodes: Graph, link: Any, kind: str) -> Mapping[str, Any] | None:
    """The inputs of the nearest node of a kind that a link leads to, through any others."""
    todo: list[Any] = [link]
    seen: set[str] = set()
    while todo and len(seen) < FURTHEST:
        here = todo.pop(0)
        key = str(here[0]) if isinstance(here, list) and here else None
        if key is None or key in seen or key not in nodes:
            continue
        seen.add(key)
        node = nodes[key]
        if node["class_type"] == kind:
            inputs: Mapping[str, Any] = node["inputs"]
            return inputs
        todo += [value for value in node["inputs"].values() if isinstance(value, list)]
    return None


def _text(nodes: Graph, link: Any, which: str, notes: list[str]) -> str:
    inputs = _upstream(nodes, link, "CLIPTextEncode")
    text = None if inputs is None else inputs.get("text")
    if isinstance(text, str):
        return text
    notes.append(f"the {which} prompt is not written in a CLIPTextEncode node and is left empty")
    return ""


def _unkept(nodes: Graph, inputs: Mapping[str, Any]) -> list[str]:
    notes = ["ComfyUI's x_T has the seed's noise, its later noise may not: expect a like picture"]
    if _number(inputs, "denoise", 1.0) < 1.0:
        notes.append(f"denoise {inputs['denoise']} is not kept: the whole walk is drawn")
    for node in nodes.values():
        kind = node["class_type"]
        if kind.startswith("LoraLoader"):
            name, scale = node["inputs"].get("lora_name"), node["inputs"].get("strength_model", 1)
            notes.append(f"LoRA {name} is not loaded; give it by --lora {name}:{scale}")
        elif kind not in UNDERSTOOD:
            notes.append(f"node {kind} is not kept")
    return notes
