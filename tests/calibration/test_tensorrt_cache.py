"""TensorRT's calibration cache: steps go out and come back, other text does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.ranges import Range, Ranges
from calibration.tensorrt_cache import from_cache, read_cache, to_cache, write_cache
from edge_runtime.errors import InputError

RANGES = Ranges(
    format=1,
    method="minmax",
    tensors={
        "image": Range(threshold=127.0, largest=130.0),
        "dead": Range(threshold=0.0),
        "a: b": Range(threshold=2.5),
    },
)


def test_steps_as_tensorrt_writes_them() -> None:
    lines = to_cache(RANGES).splitlines()
    assert lines[0].startswith("TRT-") and lines[0].endswith("EntropyCalibration2")
    assert lines[1] == "image: 3f800000"  # a step of 1
    assert [line.rpartition(":")[0] for line in lines[1:]] == ["image", "a: b"]


def test_round_trip(tmp_path: Path) -> None:
    write_cache(RANGES, tmp_path / "int8.cache")
    found = read_cache(tmp_path / "int8.cache").thresholds()
    assert found == pytest.approx({"image": 127.0, "a: b": 2.5}, rel=1e-6)


def test_a_cache_of_tensorrt_8() -> None:
    text = "TRT-8601-EntropyCalibration2\nimage: 3c010a14\n(Unnamed Layer* 0) [Convolution]_output: 3d8f5c29\n"
    found = from_cache(text, "cache").thresholds()
    assert found["image"] == pytest.approx(0.0078759 * 127, rel=1e-3)
    assert len(found) == 2


BAD = {
    "another file": ("{}", "its first line is '{}'"),
    "empty": ("", "its first line is ''"),
    "entry": ("TRT-8601-MinMaxCalibration\nimage = 3", "line 2: 'image = 3'"),
    "infinite": ("TRT-8601-MinMaxCalibration\nimage: 7f800000", "the step of 'image' is inf"),
}


@pytest.mark.parametrize("kind", BAD)
def test_other_text_is_refused(kind: str) -> None:
    text, message = BAD[kind]
    with pytest.raises(InputError, match=message):
        from_cache(text, "int8.cache")


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_cache(tmp_path / "none.cache")
    (tmp_path / "binary.cache").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not text"):
        read_cache(tmp_path / "binary.cache")
