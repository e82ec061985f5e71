"""onnxruntime's own engines: a private folder for every model and platform, and only options that it knows."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from edge_runtime.backends import onnxruntime_cache
from edge_runtime.backends.onnxruntime_cache import cache_folder, library_version
from edge_runtime.device_identity import DeviceIdentity
from edge_runtime.errors import ProviderError
from edge_runtime.sessions import tensorrt_options


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_a_folder_per_model() -> None:
    first, second = cache_folder("a" * 64), cache_folder("b" * 64)
    assert first != second and first == cache_folder("a" * 64)
    assert {folder.stat().st_mode & 0o777 for folder in (first, first.parent)} == {0o700}


@pytest.mark.parametrize(
    ("what", "values"),
    [
        ("onnxruntime_version", ("1.31.1", "1.32.0")),
        ("library_version", (100300, 101600)),
        *(
            ("device_identity", (DeviceIdentity(**{field: "x"}), DeviceIdentity(**{field: "y"})))
            for field in ("gpu", "board", "l4t_release")
        ),
    ],
)
def test_a_folder_per_platform(what: str, values: tuple[object, object], monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for value in values:
        monkeypatch.setattr(onnxruntime_cache, what, lambda value=value: value)
        folders.add(cache_folder("a" * 64))
    assert len(folders) == 2


def test_a_folder_that_others_may_write_is_refused() -> None:
    folder = cache_folder("a" * 64)
    folder.chmod(0o777)
    with pytest.raises(ProviderError, match="not a folder of this user alone"):
        cache_folder("a" * 64)


def test_this_machines_library() -> None:
    version = library_version()
    assert version is None or version >= 100000


def test_onnxruntime_knows_every_option() -> None:
    """The names stand in its library, where it has TensorRT; a name that it did not know would stop the session."""
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_tensorrt.so"
    if not library.exists():
        pytest.skip("this onnxruntime is built without TensorRT")
    known = library.read_bytes()
    options = tensorrt_options("a" * 64)
    assert [name for name in options if name.encode() not in known] == []
    # With one of these the network would be weakly typed, in which TensorRT chooses the types.
    assert not {"trt_fp16_enable", "trt_int8_enable", "trt_bf16_enable"} & set(options)
