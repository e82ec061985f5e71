"""Providers are used as asked for, or refused with the way out."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.errors import BundleError, InputError, ProviderError
from edge_runtime.manifest import InputSpec
from edge_runtime.sessions import (
    PROVIDERS,
    create,
    default_batch,
    default_chunk,
    import_onnxruntime,
    missing_library,
    open_session,
    session_options,
    tensorrt_options,
)
from tests.conftest import no_gpu
from tests.edge_runtime.tiny_bundle import TinyNetwork, tiny_files, write_tiny_bundle


def test_every_provider_is_known_to_onnxruntime() -> None:
    known = onnxruntime.get_all_providers()
    for row in PROVIDERS.values():
        assert {row.engine, *row.fallback} <= set(known)


def test_cpu_session_with_threads(tiny: Bundle) -> None:
    session = open_session(tiny, "classifier.onnx", "cpu", threads=1)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert session.get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one(tiny: Bundle, threads: int) -> None:
    with pytest.raises(InputError, match=f"threads is {threads}"):
        open_session(tiny, "classifier.onnx", "cpu", threads)


def test_an_unknown_provider_names_the_nearest(tiny: Bundle) -> None:
    with pytest.raises(InputError, match="unknown provider 'tensort'; nearest: tensorrt"):
        open_session(tiny, "classifier.onnx", "tensort", None)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_start_is_an_error(
    tiny: Bundle, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        session = open_session(tiny, "classifier.onnx", provider, None)
    except ProviderError as error:
        assert "or use provider" in str(error) or "cpu" in str(error)
        assert "\n" not in str(error)
    else:  # a machine that has it: then it really is the one in use
        assert session.get_providers()[0] == PROVIDERS[provider].engine


def test_a_provider_that_onnxruntime_lacks(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match="provider cuda is not part of this onnxruntime"):
        open_session(tiny, "classifier.onnx", "cuda", None)


def test_a_missing_onnxruntime_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match=r"pip install 'roadworthy\[cpu\]'"):
        import_onnxruntime()


def test_engines_are_cached_per_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = tensorrt_options("a" * 64), tensorrt_options("b" * 64)
    assert first["trt_engine_cache_path"] != second["trt_engine_cache_path"]
    assert Path(first["trt_engine_cache_path"]).is_dir()
    assert Path(first["trt_engine_cache_path"]).is_relative_to(tmp_path)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_runs_are_bounded_in_bytes(provider: str) -> None:
    small, large = (InputSpec(height=n, width=n, mean=(0, 0, 0), std=(1, 1, 1)) for n in (32, 224))
    assert default_batch(provider, small) > default_chunk(provider, small) > 16
    assert 2 <= default_chunk(provider, large) <= 8
    assert 4 <= default_batch(provider, large) <= 32


def test_the_models_bytes_are_not_kept(tiny: Bundle) -> None:
    session = open_session(tiny, "classifier.onnx", "cpu", threads=1)
    assert not session._model_bytes


def test_a_model_that_the_engine_refuses(network: TinyNetwork) -> None:
    model = tiny_files(network)["classifier.onnx"].replace(b"Tanh", b"Tanx")
    with pytest.raises(BundleError, match=r"classifier\.onnx cannot be loaded \(.*Tanx") as caught:
        create(model, "classifier.onnx", "cpu", session_options(1))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network) | {"classifier.onnx": b"hello world"}
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle", files))
    with pytest.raises(BundleError, match="is not an ONNX model"):
        open_session(bundle, "classifier.onnx", "cpu", None)


@pytest.mark.skipif(no_gpu() is None, reason="this machine has a GPU")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_names_the_library_that_it_misses(
    tiny: Bundle, provider: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if PROVIDERS[provider].engine not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no GPU providers")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ProviderError) as caught:
        create(tiny.read("classifier.onnx"), "classifier.onnx", provider, session_options(1))
    assert f"({missing_library(onnxruntime, provider)}); it needs an NVIDIA GPU" in str(caught.value)
    assert capfd.readouterr() == ("", "")  # what onnxruntime would print is in the error already


def test_nothing_is_missing_where_there_is_no_library_to_ask(tmp_path: Path) -> None:
    built_in_one = type("ort", (), {"__file__": str(tmp_path / "__init__.py")})
    assert missing_library(built_in_one, "cuda") is None
