"""The work of `bench generate` for a model: its own size and steps where none are named."""

from __future__ import annotations

from latentdiff.bench.drawing.drawers import Work
from latentdiff.errors import UserError
from latentdiff.files.json_file import read_json
from latentdiff.models import geometry, model_folder

STEPS, GUIDANCE = 50, 7.5
"""What a model that says nothing is drawn with."""


def work_of(model: str, prompt: str, steps: int | None, size: int | None, batch: int) -> Work:
    """The work, with the folder that the model lies in; no weight is read. UserError for a model
    that is no folder."""
    located = model_folder.resolve(model).path
    if not located.is_dir():
        raise UserError(f"{model} is no folder in diffusers format, which all peers open")
    card_file = located / model_folder.CARD
    card = read_json(card_file) if card_file.is_file() else {}
    unet, vae = (read_json(located / part / "config.json") for part in ("unet", "vae"))
    own = geometry.of_configs(vae, unet).own_size
    if size is None and own is None:
        raise UserError(f"{model} does not say its size; give --size")
    height, width = (size, size) if size is not None else own or (0, 0)
    if batch < 1:
        raise UserError(f"batch is {batch}; expected at least 1")
    return Work(
        model=str(located),
        prompt=prompt,
        steps=steps or int(card.get("num_inference_steps", STEPS)),
        guidance_scale=float(card.get("guidance_scale", GUIDANCE)),
        batch=batch,
        height=height,
        width=width,
        folder="",
    )
