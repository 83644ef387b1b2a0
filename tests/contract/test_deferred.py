"""What drawing from the shell must not import, and that what is put off is the real thing."""

import json
import subprocess
import sys

NOT_FOR_DRAWING = (
    *("datasets", "pandas", "pyarrow", "matplotlib", "fastapi", "uvicorn", "tensorboard"),
    *("diffusers.pipelines", "diffusers.models.unets.unet_1d"),
    *("diffusers.models.unets.unet_3d_condition",),
    *("diffusers.models.transformers.transformer_flux", "diffusers.models.controlnets"),
    *("diffusers.hooks.first_block_cache", "latentdiff.training.run", "latentdiff.training.tasks"),
    *("latentdiff.measure", "latentdiff.web", "latentdiff.bench"),
)

DRAWN = """
import sys
from latentdiff.cli.main import run
assert run(["generate", "a cat in the snow", "--steps", "1", "--seed", "0", "-o", sys.argv[1]]) == 0
print()
"""

ASKED = """
from latentdiff import deferred
deferred.defer()
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
import sys, types
face = sys.modules["diffusers.models.unets"]
assert isinstance(face, deferred.Deferred)
from diffusers.models.unets import UNet2DModel
from diffusers.models import Transformer2DModel
assert type(face) is types.ModuleType
assert face.UNet2DConditionModel is UNet2DConditionModel
assert sys.modules["diffusers.models.transformers"].Transformer2DModel is Transformer2DModel
from diffusers import StableDiffusionPipeline
deferred.defer()
assert sys.modules["diffusers.models.unets"] is face
print()
"""


def run(code: str, *arguments: str) -> set[str]:
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_drawing_from_the_shell_imports_nothing_it_has_no_use_for(tmp_path) -> None:
    loaded = run(DRAWN, str(tmp_path / "cat.png"))
    assert (tmp_path / "cat.png").stat().st_size > 1000
    assert not {name for name in NOT_FOR_DRAWING if name in loaded}


def test_a_deferred_package_is_itself_as_soon_as_it_is_asked() -> None:
    run(ASKED)
