"""The judge: a small two-headed classifier that says what stands in a picture, and where.

It is trained by its own script on renders and degraded renders of all subjects, those held out
of the generator's training included, and is used for nothing but measuring: never for
conditioning, guidance or a loss. Pictures enter as pixels, [-1, 1], float, B 3 H W.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from latentdiff import files
from latentdiff.errors import UserError
from latentdiff.evaluation.saved_weights import load_strictly
from latentdiff.pixels import to_pixels

PICTURE_SIZE = 128
WIDTHS = (48, 96, 144)
WEIGHTS = "judge.safetensors"
CONFIG = "config.json"
_FORMAT = "latentdiff-judge-1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgeLogits:
    """Unnormalised log-probabilities: `subject` (B, S), `setting` (B, T).

    `across` (B, S): where a subject's evidence lies, 0 at the left edge to 1 at the right one.
    """

    subject: Tensor
    setting: Tensor
    across: Tensor


class _Norm(nn.GroupNorm):
    """Group norm: no statistics of the batch or of training, so a verdict is the picture's own."""

    def __init__(self, width: int) -> None:
        super().__init__(8, width)


class _Residual(nn.Module):
    """x + conv(silu(norm(…))) with `depth` 3×3 convolutions (He et al. 2016, pre-activation)."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [_Norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class Judge(nn.Module):
    """A residual network, 128 → 32 → 16 → 8, and two linear heads.

    The subject head names every place of the 8×8 map by itself; a class's logit is the smooth
    maximum (log-mean-exp) of its places', so two subjects do not blur each other's evidence, and
    where that evidence lies says which stands on the left. The setting head sees the map's mean and
    maximum.

    `subjects` and `settings` name the classes in the order of the logits.
    """

    def __init__(
        self,
        subjects: Sequence[str],
        settings: Sequence[str],
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        self.subjects = tuple(subjects)
        self.settings = tuple(settings)
        self.widths = tuple(widths)
        first, second, third = self.widths
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 7, stride=4, padding=3),
            _Residual(first, 1),
            nn.Conv2d(first, second, 3, stride=2, padding=1),
            _Residual(second, 2),
            nn.Conv2d(second, third, 3, stride=2, padding=1),
            _Residual(third, 1),
            _Norm(third),
            nn.SiLU(),
        )
        self.subject_head = nn.Conv2d(third, len(self.subjects), 1)
        self.setting_head = nn.Linear(2 * third, len(self.settings))

    def forward(self, pixels: Tensor) -> JudgeLogits:
        """pixels (B, 3, 128, 128), [-1, 1] -> logits (B, S) and (B, T)."""
        assert pixels.ndim == 4 and pixels.shape[1] == 3, f"B 3 H W expected: {pixels.shape}"
        maps = self.features(pixels)
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)
        places = self.subject_head(maps).float()
        columns = places.logsumexp(dim=2)  # (B, S, w): the evidence in each column of the map
        width = columns.shape[2]
        subject = columns.logsumexp(dim=2) - math.log(places.shape[2] * width)
        middles = (torch.arange(width, device=columns.device) + 0.5) / width
        across = (columns.softmax(dim=2) * middles).sum(dim=2)
        return JudgeLogits(subject=subject, setting=self.setting_head(pooled), across=across)


def save(judge: Judge, folder: str | Path) -> None:
    """Write `judge.safetensors` (float16) and `config.json` into `folder`."""
    from safetensors.torch import save_file

    state = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in _state(judge).items()}
    root = Path(folder)
    with files.atomic_path(root / WEIGHTS) as temporary:
        save_file(state, str(temporary), metadata={"format": "pt"})
    config = {
        "format": _FORMAT,
        "picture_size": PICTURE_SIZE,
        "widths": list(judge.widths),
        "subjects": list(judge.subjects),
        "settings": list(judge.settings),
    }
    files.write_json(root / CONFIG, config)


def _state(judge: Judge) -> dict[str, Tensor]:
    return judge.state_dict()


def load(folder: str | Path, device: str | torch.device = "cpu") -> Judge:
    """Read a judge written by `save`; float32, in evaluation mode.

    Raises UserError when the folder, a file or a weight is missing, or of another shape.
    """
    root = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (root / name).is_file():
            raise UserError(
                f"no judge in {root}: {name} is missing; train one with "
                "`python -m latentdiff.train_scripts.judge`, or name its folder with --judge"
            )
    try:
        config: dict[str, Any] = json.loads((root / CONFIG).read_text("utf-8"))
        judge = Judge(config["subjects"], config["settings"], config["widths"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{root / CONFIG} does not describe a judge ({error!r})") from error
    load_strictly(judge, root / WEIGHTS)
    return judge.to(device).eval()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What the judge says of N pictures.

    `subject` (N, S) and `setting` (N, T) are probabilities, each row sums to one. `across` (N, S)
    says where a subject stands, 0 at the left edge to 1 at the right one; it means nothing for a
    subject that is not there.
    """

    subjects: tuple[str, ...]
    settings: tuple[str, ...]
    subject: NDArray[np.float32]
    setting: NDArray[np.float32]
    across: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.subject)

    def top_subjects(self, n: int, count: int = 1) -> tuple[str, ...]:
        """The `count` most likely subjects of picture n, best first."""
        order = np.argsort(-self.subject[n], kind="stable")[:count]
        return tuple(self.subjects[i] for i in order)

    def is_left_of(self, n: int, first: str, second: str) -> bool:
        """Whether, in picture n, subject `first` stands on the left of subject `second`."""
        places = self.across[n]
        return bool(places[self.subjects.index(first)] < places[self.subjects.index(second)])

    def top_setting(self, n: int) -> str:
        """The most likely setting of picture n."""
        return self.settings[int(np.argmax(self.setting[n]))]


def to_array(picture: Image.Image | NDArray[np.uint8], size: int = PICTURE_SIZE) -> Any:
    """A PIL picture or a uint8 H W 3 array as uint8 (size, size, 3); others sizes are resampled.

    The resampling is Pillow's bicubic with antialiasing.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


@torch.inference_mode()
def judge_pictures(
    judge: Judge,
    pictures: Iterable[Image.Image | NDArray[np.uint8]],
    batch_size: int = 64,
) -> Verdicts:
    """Judge pictures of any size, a batch at a time; the iterable may be lazy."""
    device = next(judge.parameters()).device
    subject: list[NDArray[np.float32]] = []
    setting: list[NDArray[np.float32]] = []
    across: list[NDArray[np.float32]] = []
    for batch in batches(pictures, batch_size):
        stack = np.stack([to_array(picture) for picture in batch])
        logits = judge(to_pixels(stack).contiguous().to(device))
        subject.append(logits.subject.float().softmax(dim=-1).cpu().numpy())
        setting.append(logits.setting.float().softmax(dim=-1).cpu().numpy())
        across.append(logits.across.cpu().numpy())
    if not subject:
        subject, setting, across = (
            [np.zeros((0, len(names)), np.float32)]
            for names in (judge.subjects, judge.settings, judge.subjects)
        )
    return Verdicts(
        subjects=judge.subjects,
        settings=judge.settings,
        subject=np.concatenate(subject),
        setting=np.concatenate(setting),
        across=np.concatenate(across),
    )


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of `size`; the last may be shorter."""
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
