"""Names of samplers as people write them, without torch."""

from __future__ import annotations

from typing import Any

from latentdiff.errors import unknown_name

OURS = {
    "ddim": "ddim",
    "ddpm": "ddpm",
    "ddim-inverse": "ddim-inverse",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DDIMInverseScheduler": "ddim-inverse",
}

# name -> (diffusers class, settings it stands for)
ALIASES: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler-ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmsolver++-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmsolver-singlestep": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2-ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "sa-solver": ("SASolverScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}


def known_names() -> tuple[str, ...]:
    """The short names that `interop.build` takes; diffusers' class names go as well."""
    return (*(name for name in OURS if not name.endswith("Scheduler")), *ALIASES)


def canonical(name: str) -> str:
    """The spelling that the tables use, or diffusers', for a name in any case.

    Raises UserError, with the nearest, for an unknown one.
    """
    if name in OURS or name in ALIASES:
        return name
    short = name.lower().replace("_", "-").replace(" ", "-")
    if short in OURS or short in ALIASES:
        return short
    if name.endswith("Scheduler"):
        from latentdiff.schedulers.foreign import foreign_class

        if foreign_class(name) is not None:
            return name
    raise unknown_name("scheduler", name, known_names())
