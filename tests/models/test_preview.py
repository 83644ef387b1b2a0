"""Previews: one matrix from latents to RGB, found by least squares."""

import json

import pytest
import torch

from latentdiff.errors import UserError
from latentdiff.models.preview import Preview, fit_preview
from latentdiff.pixels import to_images

KNOWN = Preview(
    matrix=((0.3, 0.2, -0.2), (0.1, -0.2, 0.1), (-0.1, 0.2, 0.2), (0.0, 0.05, -0.3)),
    bias=(0.1, -0.05, 0.02),
)


def latents(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_known_matrix_is_recovered() -> None:
    known = latents(6, 4, 8, 8)
    cells = torch.einsum("bchw,cr->brhw", known, torch.tensor(KNOWN.matrix))
    cells = cells + torch.tensor(KNOWN.bias)[:, None, None]
    pixels = cells.repeat_interleave(4, 2).repeat_interleave(4, 3)
    pixels = pixels + 0.5 * torch.tensor([1.0, -1.0]).repeat(16)  # gone when a cell is averaged
    found = fit_preview(known, pixels)
    torch.testing.assert_close(
        torch.tensor([*found.matrix, found.bias]),
        torch.tensor([*KNOWN.matrix, KNOWN.bias]),
        rtol=0,
        atol=1e-5,
    )


def test_pixels_are_the_matrix_product_within_the_range() -> None:
    x = latents(2, 4, 3, 5)
    pixels = KNOWN.pixels(x)
    expected = x.permute(0, 2, 3, 1) @ torch.tensor(KNOWN.matrix) + torch.tensor(KNOWN.bias)
    torch.testing.assert_close(pixels.permute(0, 2, 3, 1), expected.clamp(-1, 1))
    assert float(KNOWN.pixels(100 * x).abs().max()) == 1.0


def test_pictures_are_a_pixel_a_cell_or_of_the_size_asked_for() -> None:
    assert [i.size for i in KNOWN.images(latents(2, 4, 3, 5))] == [(5, 3)] * 2
    assert [i.size for i in KNOWN.images(latents(2, 4, 3, 5), (40, 24))] == [(40, 24)] * 2


def test_json_keeps_a_preview() -> None:
    assert Preview.from_json(json.loads(json.dumps(KNOWN.to_json())), 4) == KNOWN


@pytest.mark.parametrize(
    "value", [None, {}, {"matrix": [[1, 2]], "bias": [0, 0, 0]}, {"matrix": 3, "bias": [0] * 3}]
)
def test_json_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(UserError):
        Preview.from_json(value, 4)
    with pytest.raises(UserError, match="4 rows for 8 latent channels"):
        Preview.from_json(KNOWN.to_json(), 8)


def test_eight_bits_are_rounded_and_clamped() -> None:
    values = torch.tensor([-3.0, -1.0, -1 + 2.6 / 255, 0.0, 1.0, 2.0])
    (image,) = to_images(values.expand(3, 1, 6)[None])
    assert [image.getpixel((x, 0))[0] for x in range(6)] == [0, 0, 1, 128, 255, 255]
    assert image.mode == "RGB"
