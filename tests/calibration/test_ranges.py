"""Ranges observed in a stream, cached, written, read, and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from calibration import ranges as library
from calibration.layers import Network, find_layers
from calibration.placement import tensors_to_watch
from calibration.ranges import Range, Ranges, Stream, choose_ranges, observe, observe_cached, read_ranges, write_ranges
from edge_runtime.errors import DataError, InputError
from export.session import cpu_session, expose


@pytest.fixture(scope="module")
def network(classifier: onnx.ModelProto) -> Network:
    return find_layers(classifier)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 3, 32, 32), dtype=np.float32)


def stream(images: np.ndarray, size: int) -> Stream:
    return Stream(lambda: (images[i : i + size] for i in range(0, len(images), size)), len(images), "d" * 64)


def test_largest_values_are_the_tensors_own(network: Network) -> None:
    tensors = tensors_to_watch(network.layers)
    found = observe(network, tensors, stream(noise(12), 5))
    exposed = onnx.ModelProto()
    exposed.CopyFrom(network.prepared.model)
    inner = [name for name in tensors if name != "image"]
    expose(exposed, inner)
    values = dict(zip(inner, cpu_session(exposed).run(inner, {"image": noise(12)}), strict=True))
    assert found["image"].largest == np.abs(noise(12)).max()
    for name in inner:
        assert found[name].largest == pytest.approx(float(np.abs(values[name]).max()), rel=1e-5)


def test_one_batch_at_a_time(network: Network) -> None:
    """The stream makes a batch only once the one before is done with."""
    alive = []

    def batches():  # type: ignore[no-untyped-def]
        for index in range(4):
            alive.append(index)
            yield noise(2)

    progress: list[tuple[int, int]] = []
    observe(network, ["image"], Stream(batches, 8, "0" * 64), lambda _, done, of: progress.append((done, len(alive))))
    assert progress == [(2, 1), (4, 2), (6, 3), (8, 4)]


def test_cache_saves_the_second_run(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tensors_to_watch(network.layers)
    first = observe_cached(network, tensors, stream(noise(4), 4), tmp_path)
    monkeypatch.setattr(library, "observe", lambda *_: pytest.fail("observed again"))
    second = observe_cached(network, tensors, stream(noise(4), 4), tmp_path)
    assert all(np.array_equal(first[name].counts, second[name].counts) for name in tensors)
    assert {name: found.largest for name, found in first.items()} == {n: f.largest for n, f in second.items()}
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    monkeypatch.undo()
    again = observe_cached(network, tensors, stream(noise(4), 4), tmp_path)
    assert again["image"].largest == first["image"].largest


def test_other_images_or_model_are_another_key(network: Network, tmp_path: Path) -> None:
    observe_cached(network, ["image"], stream(noise(4), 4), tmp_path)
    other = Stream(lambda: [noise(4)], 4, "e" * 64)
    observe_cached(network, ["image"], other, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_not_a_number_is_named(network: Network) -> None:
    images = noise(6)
    images[4, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="NaN or infinite for calibration images 3 to 5"):
        observe(network, ["image"], stream(images, 3))


def test_written_ranges_are_read(network: Network, tmp_path: Path) -> None:
    tensors = tensors_to_watch(network.layers)
    found = choose_ranges(observe(network, tensors, stream(noise(4), 4)), "mse", network, stream(noise(4), 4))
    write_ranges(found, tmp_path / "ranges.json")
    assert read_ranges(tmp_path / "ranges.json") == found
    assert found.thresholds()["image"] <= float(np.abs(noise(4)).max())


BAD_FILES = {
    "no JSON": (b"{", "holds no ranges"),
    "another file": (b'{"a": 1}', "holds no ranges"),
    "negative": (None, "range of 'x' is -1.0; give a number >= 0"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(tmp_path: Path, kind: str) -> None:
    content, message = BAD_FILES[kind]
    path = tmp_path / "ranges.json"
    if content is None:
        write_ranges(Ranges(format=1, method="minmax", tensors={"x": Range(threshold=-1.0)}), path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_ranges(path)


def test_missing_file_and_unknown_method(network: Network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_ranges(tmp_path / "none.json")
    with pytest.raises(InputError, match="unknown calibration method 'max'"):
        choose_ranges({}, "max", network, stream(noise(1), 1))
