"""Names of samplers as people write them, without torch."""

from __future__ import annotations

from typing import Any

from latentdiff.errors import UserError, unknown_name

OURS = {
    "ddim": "ddim",
    "ddpm": "ddpm",
    "ddim-inverse": "ddim-inverse",
    "annealed-langevin": "annealed-langevin",
    "vp-sde": "vp-sde",
    "vp-sde-pc": "vp-sde-pc",
    "probability-flow": "probability-flow",
    "probability-flow-adaptive": "probability-flow-adaptive",
    "ddim-sigma-hat": "ddim-sigma-hat",
    "ddpm-fixed-small": "ddpm-fixed-small",
    "ddpm-fixed-large": "ddpm-fixed-large",
    "ddpm-zero": "ddpm-zero",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DDIMInverseScheduler": "ddim-inverse",
}

# name -> (the sampler that it is, settings it stands for)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim-sigma-hat": ("ddim", {"eta": 1.0, "sigma_hat": True}),
    "ddpm-fixed-small": ("ddpm", {"variance": "fixed_small"}),
    "ddpm-fixed-large": ("ddpm", {"variance": "fixed_large"}),
    "ddpm-zero": ("ddpm", {"variance": "zero"}),
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


# Other programs' names for the same: A1111's menu, ComfyUI's menu.
SPELLINGS = {
    "dpm++": "dpmsolver++",
    "dpm++-2m": "dpmsolver++",
    "dpmpp-2m": "dpmsolver++",
    "dpm++-2m-sde": "dpmsolver++-sde",
    "dpmpp-2m-sde": "dpmsolver++-sde",
    "uni-pc": "unipc",
    "dpm2": "kdpm2",
    "dpm-2": "kdpm2",
    "dpm2-a": "kdpm2-ancestral",
    "dpm-2-ancestral": "kdpm2-ancestral",
    "plms": "pndm",
}
KARRAS = "-karras"
"""Ending of a name that asks for the noise levels of Karras et al. 2022, equation 5."""


def known_names() -> tuple[str, ...]:
    """The short names that `interop.build` takes; diffusers' class names go as well."""
    return (*(name for name in OURS if not name.endswith("Scheduler")), *ALIASES)


def canonical(name: str) -> str:
    """The spelling that the tables use, or diffusers', for a name as people write it.

    "Euler a", "DPM++ 2M Karras" and "uni_pc" are "euler-a", "dpmsolver++-karras" and "unipc".
    Raises UserError, with the nearest, for an unknown one.
    """
    if name in OURS or name in ALIASES:
        return name
    short = "-".join(name.lower().replace("_", " ").replace("-", " ").split())
    ending = KARRAS if short.endswith(KARRAS) else ""
    short = short.removesuffix(KARRAS)
    short = SPELLINGS.get(short, short)
    if short in OURS and ending:
        raise UserError(
            f"the scheduler {short!r} has no Karras spacing; try 'dpmsolver++-karras' or "
            "'euler-karras'"
        )
    if short in OURS or short in ALIASES:
        return short + ending
    if name.endswith("Scheduler"):
        from latentdiff.schedulers.foreign import foreign_class

        if foreign_class(name) is not None:
            return name
    raise unknown_name("scheduler", name, known_names())


def foreign_settings(name: str) -> tuple[str, dict[str, Any]]:
    """diffusers' class for a canonical name, and the settings that the name stands for."""
    base = name.removesuffix(KARRAS)
    class_name, settings = ALIASES.get(base, (base, {}))
    return class_name, settings | ({"use_karras_sigmas": True} if base != name else {})
