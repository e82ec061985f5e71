"""The drawing shows the saliency where it is, on a scale that can be read, and says what is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime import overlay
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import InputError
from edge_runtime.explainer import Explainer
from edge_runtime.overlay import METHOD_TITLES, blend, caption, colorize, draw_explanation, save_image, scale_saliency
from edge_runtime.path import METHODS
from edge_runtime.preprocess import load_image, normalize
from tests.edge_runtime.tiny_bundle import LABELS, SPEC, TinyNetwork, images, tiny_files, write_tiny_bundle


@pytest.fixture(scope="module")
def explainer(tiny: Bundle) -> Explainer:
    return Explainer(tiny, threads=1)


def test_every_method_has_a_title() -> None:
    assert set(METHOD_TITLES) == set(METHODS)


def test_colours_grow_lighter_all_the_way() -> None:
    ramp = colorize(np.linspace(0, 1, 256)).astype(float)
    lightness = ramp @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) >= -0.5).all()
    assert lightness[-1] - lightness[0] > 200
    np.testing.assert_array_equal(ramp[[0, -1]], overlay.COLOURS[[0, -1]])


def test_scale_ends_at_the_percentile_and_ignores_sign() -> None:
    saliency = np.linspace(-1, 1, 2001, dtype=np.float32).reshape(3, 667)
    found = scale_saliency(saliency)
    assert found.ceiling == pytest.approx(0.99, abs=1e-3)
    assert found.values.max() == 1 and found.values.min() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(found.values, found.values[::-1, ::-1])


def test_scale_of_one_hot_zero_and_nan() -> None:
    one_hot = np.zeros((32, 32), np.float32)
    one_hot[3, 4] = -2
    assert scale_saliency(one_hot).ceiling == 2 and scale_saliency(one_hot).values[3, 4] == 1
    zero = scale_saliency(np.zeros((4, 4), np.float32))
    assert zero.ceiling == 0 and not zero.values.any()
    broken = scale_saliency(np.full((4, 4), np.nan, np.float32))
    assert np.isnan(broken.ceiling) and not broken.values.any()


def test_blend_marks_the_salient_corner() -> None:
    saliency = np.zeros((8, 8), np.float32)
    saliency[:4, :4] = 1
    picture = blend(np.full((64, 64, 3), 128, np.uint8), saliency).astype(int)
    assert picture.shape == (64, 64, 3)
    assert picture[10, 10].sum() > picture[50, 50].sum() + 200
    assert (np.ptp(picture[50, 50]) < 40) and (np.ptp(picture[10, 10]) > 30)


@pytest.mark.parametrize("method", METHODS)
def test_drawing(explainer: Explainer, method: str, tmp_path: Path) -> None:
    pixels = images(2)
    explanation = explainer.explain(normalize(pixels, SPEC), method)
    figure = draw_explanation(pixels[1], explanation, LABELS, 1)
    saved = load_image(save_image(figure, tmp_path / "out.png"))
    assert saved.shape == (figure.height, figure.width, 3)
    panel = overlay.enlarge(pixels[1])
    top = left = overlay.MARGIN
    np.testing.assert_array_equal(saved[top : top + 320, left : left + 320], panel)
    np.testing.assert_array_equal(
        saved[top : top + 320, 2 * left + 320 : 2 * left + 640], blend(panel, explanation.saliency()[1])
    )
    bar = saved[top : top + 320, 3 * left + 640]
    np.testing.assert_array_equal(bar[[0, -1]], overlay.COLOURS[[-1, 0]])
    below = saved[top + 320 + overlay.MARGIN :]
    assert (below < 128).any()  # there is text


def test_long_captions_widen_narrow_pictures(explainer: Explainer) -> None:
    pixels = images(1)
    explanation = explainer.explain(normalize(pixels, SPEC), "sg")
    narrow = draw_explanation(np.zeros((300, 20, 3), np.uint8), explanation, LABELS)
    assert narrow.width > overlay.font().getlength(caption(explanation, LABELS, 0)[1])


def test_caption(explainer: Explainer) -> None:
    batch = normalize(images(1), SPEC)
    found = explainer.explain(batch, "sg", seed=3)
    said, parameters = caption(found, LABELS, 0)
    assert said.startswith(f"predicted: {LABELS[found.target[0]]} (") and said.endswith("%)")
    assert parameters == "SmoothGrad, 50 samples, sigma 0.15, seed 3, channels by sum_abs"
    other = (int(found.target[0]) + 1) % len(LABELS)
    lines = caption(explainer.explain(batch, "ig", other), LABELS, 0)
    assert "completeness gap" in lines[1] and lines[2] == f"explained: {LABELS[other]}"


def test_caption_of_what_is_no_number(tmp_path: Path, network: TinyNetwork) -> None:
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle", tiny_files(network, poison=True)))
    dark = np.zeros((1, 8, 8, 3), np.uint8)
    explanation = Explainer(bundle, threads=1).explain(normalize(dark, SPEC))
    assert caption(explanation, LABELS, 0) == [
        "predicted: nothing, the logits are not finite",
        "Vanilla Gradient, channels by sum_abs",
        "no explanation: the attribution is not finite",
    ]
    assert draw_explanation(dark[0], explanation, LABELS).width > 640


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.webp"])
def test_saving(tmp_path: Path, name: str) -> None:
    figure = Image.new("RGB", (20, 10), (200, 10, 10))
    path = save_image(figure, tmp_path / name)
    assert load_image(path).shape == (10, 20, 3)
    with pytest.raises(InputError, match="already exists; choose another name or pass --force"):
        save_image(figure, path)
    save_image(figure, path, force=True)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    figure = Image.new("RGB", (20, 10))
    with pytest.raises(InputError, match=r"ends in none of \.png"):
        save_image(figure, tmp_path / "a.pdf")
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        save_image(figure, tmp_path / "absent" / "a.png")
