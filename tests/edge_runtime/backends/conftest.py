"""A device with stand-ins of TensorRT and CUDA, its cache in a temporary folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edge_runtime import provider_choice
from edge_runtime.backends import cuda, opening, tensorrt_api
from edge_runtime.backends.cache import EngineCache
from edge_runtime.bundle import Bundle, open_bundle
from tests.edge_runtime.backends.bindings import TENSORRT
from tests.edge_runtime.backends.standin import Cudart, Faults, Module
from tests.edge_runtime.tiny_bundle import TinyNetwork
from tests.edge_runtime.trust.publisher import golden_bundle


@dataclass
class Device:
    """The stand-ins of one device; ``update`` gives it another version of TensorRT."""

    trt: Module
    cudart: Cudart
    cache: EngineCache

    @property
    def faults(self) -> Faults:
        return self.trt.faults

    def update(self, version: str) -> None:
        self.trt = Module(version, self.cudart)


@pytest.fixture(params=TENSORRT)
def device(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A device with TensorRT of each recorded version."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(opening.VARIABLE, raising=False)
    cudart = Cudart("12" if request.param.startswith("10") else "13")
    made = Device(Module(request.param, cudart), cudart, EngineCache())
    modules: dict[str, Any] = {tensorrt_api.MODULE: lambda: made.trt, cuda.MODULE: lambda: made.cudart}

    def imported(name: str) -> ModuleType:
        found: ModuleType = modules[name]()
        return found

    monkeypatch.setattr(tensorrt_api, "import_module", imported)
    monkeypatch.setattr(cuda, "import_module", imported)
    provider_choice.forget()
    yield made
    provider_choice.forget()


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Bundle:
    """The tiny bundle with a golden set; read only."""
    return open_bundle(golden_bundle(tmp_path_factory.mktemp("golden") / "bundle", network))
