"""TensorRT is found, or the way to it is said."""

from __future__ import annotations

import pytest

from edge_runtime.backends import tensorrt_api
from edge_runtime.backends.tensorrt_api import first_line, import_tensorrt, last_error, make_logger
from edge_runtime.errors import ProviderError
from tests.edge_runtime.backends.conftest import Device


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_api, "MODULE", "tensorrt_that_is_nowhere")
    with pytest.raises(ProviderError, match=r"package tensorrt cannot be imported .*JetPack brings it"):
        import_tensorrt()


def test_without_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise OSError("libnvinfer.so.10: cannot open\nshared object file")

    monkeypatch.setattr(tensorrt_api, "import_module", broken)
    with pytest.raises(ProviderError, match=r"libnvinfer.so.10: cannot open shared object file"):
        import_tensorrt()


@pytest.mark.parametrize(("version", "old"), [("8.6.1", True), ("10.2.0", True), ("10.16.1", False), ("11.4.0", False)])
def test_the_oldest_version(device: Device, version: str, old: bool) -> None:
    device.trt.__version__ = version
    if old:
        with pytest.raises(ProviderError, match=f"TensorRT {version} is too old, engines need 10.3; update JetPack"):
            import_tensorrt()
    else:
        assert import_tensorrt() is device.trt


def test_only_errors_are_kept(device: Device) -> None:
    logger = make_logger(device.trt)
    assert last_error(logger) == "TensorRT gave no reason"
    severity = device.trt.ILogger.Severity  # type: ignore[attr-defined]
    for level in severity:
        logger.log(level, f"{level.name}:\n  said")
    assert sorted(logger.errors) == ["ERROR:\n  said", "INTERNAL_ERROR:\n  said"]
    assert last_error(logger) in ("ERROR: said", "INTERNAL_ERROR: said")


def test_long_messages_are_cut() -> None:
    assert len(first_line("word " * 100)) == 200
