"""What drawing from the shell must not import, and that what is put off is the real thing."""

import json
import subprocess
import sys

import pytest

NOT_FOR_DRAWING = (
    *("datasets", "pandas", "pyarrow", "matplotlib", "fastapi", "uvicorn", "tensorboard"),
    *("diffusers", "transformers", "accelerate", "peft", "huggingface_hub", "scipy", "sympy"),
    *("torch._dynamo", "torch._inductor", "torch._decomp", "torch._refs"),
    *("latentdiff.training", "latentdiff.measure", "latentdiff.web", "latentdiff.bench"),
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

KERNELS = """
import sys, types
from latentdiff import deferred
deferred.import_torch()
import gc, torch
assert gc.isenabled()
kernels = sys.modules[deferred.META_KERNELS]
assert isinstance(kernels, deferred.Deferred)
torch.randn(2, generator=torch.Generator().manual_seed(0))
import torch._decomp
assert type(kernels) is types.ModuleType
flat = torch.nn.functional.interpolate(torch.empty(1, 2, 4, 4, device="meta"), scale_factor=2.0)
assert flat.shape == (1, 2, 8, 8)
print()
"""

COMPILED = """
from latentdiff import deferred
deferred.import_torch()
import torch
compiled = torch.compile(lambda x: x.sin() + 1, backend="aot_eager")
found = compiled(torch.zeros(3, requires_grad=True))
assert found.tolist() == [1, 1, 1]
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


@pytest.mark.parametrize("code", [KERNELS, COMPILED], ids=["meta kernels", "compiler"])
def test_torch_s_meta_kernels_are_there_for_whoever_needs_them(code: str) -> None:
    run(code)
