"""``auto`` takes the first provider that proves itself with the bundle, and says why not the ones before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime import provider_choice, self_test
from edge_runtime.audit import AuditOptions, audit_bundle
from edge_runtime.benchmark import BenchmarkOptions, benchmark_bundles
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.classifier import Classifier
from edge_runtime.errors import BundleError, EngineError, InputError, ProviderError
from edge_runtime.explainer import Explainer
from edge_runtime.manifest import Tolerance
from edge_runtime.provider_choice import AUTO, ORDER, PassedOver, choose, choose_for
from edge_runtime.sessions import PROVIDERS
from tests.conftest import no_gpu
from tests.edge_runtime.tiny_bundle import TinyNetwork
from tests.edge_runtime.trust.publisher import golden_bundle


@pytest.fixture(autouse=True)
def forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    provider_choice.forget()
    yield
    provider_choice.forget()


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Bundle:
    return open_bundle(golden_bundle(tmp_path_factory.mktemp("golden") / "bundle", network))


without_gpu = pytest.mark.skipif(no_gpu() is None, reason="this machine has a GPU")


@without_gpu
def test_a_machine_without_gpu(golden: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    """With the real onnxruntime: both are passed over for a reason, and the CPU proves itself."""
    choice = choose(golden, AUTO)
    assert choice.provider == "cpu"
    assert [each.provider for each in choice.passed_over] == ["tensorrt", "cuda"]
    assert caplog.messages == [str(each) for each in choice.passed_over]
    assert all("\n" not in message for message in caplog.messages)
    tensorrt, cuda = caplog.messages
    assert tensorrt.startswith("provider tensorrt passed over: native: ") and "onnxruntime: " in tensorrt
    assert cuda.startswith("provider cuda passed over: provider cuda ")


@without_gpu
def test_classifier_and_explainer_take_it(golden: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    classifier, explainer = Classifier(golden, AUTO), Explainer(golden, AUTO)
    assert (classifier.provider, explainer.provider) == ("cpu", "cpu")
    assert len(caplog.messages) == 2  # tried once, told once
    images = golden.golden().images
    np.testing.assert_array_equal(classifier.predict(images), Classifier(golden).predict(images))


@without_gpu
def test_results_name_what_was_used(golden: Bundle) -> None:
    tested = self_test.self_test(golden, AUTO)
    audited = audit_bundle(golden, options=AuditOptions(provider=AUTO, methods=("vg",), road=False))
    options = BenchmarkOptions(provider=AUTO, stages=("classify",), iterations=1, warmup=0, cold_starts=1)
    measured = benchmark_bundles([golden], options).result
    assert (tested.provider, audited.options.provider, measured.options.provider) == ("cpu", "cpu", "cpu")
    expected = choose(golden, AUTO).passed_over
    assert len(expected) == 2
    assert tested.passed_over == audited.passed_over == measured.passed_over == expected
    assert self_test.self_test(golden).passed_over == ()


def test_a_named_provider_is_not_tried(golden: Bundle) -> None:
    for name in PROVIDERS:
        assert choose(golden, name) == provider_choice.Choice(name)
    assert set(ORDER) == set(PROVIDERS)


def test_an_unknown_name(golden: Bundle) -> None:
    with pytest.raises(InputError, match="unknown provider 'aut'; nearest: auto"):
        choose(golden, "aut")


# ---- providers that this machine lacks, played by the CPU ------------------------------------------------------------


class Played:
    """Self-tests by provider: a deviation of the logits to add, or what is raised."""

    def __init__(self, **by_provider: float | Exception) -> None:
        self.by_provider = by_provider
        self.tried: list[str] = []
        self._real = self_test.self_test

    def __call__(self, bundle: Bundle, provider: str, *arguments: Any, **named: Any) -> self_test.SelfTest:
        import msgspec

        self.tried.append(provider)
        found = self.by_provider.get(provider, 0.0)
        if isinstance(found, Exception):
            raise found
        result = self._real(bundle, "cpu", *arguments, **named)
        return msgspec.structs.replace(result, provider=provider, logits=result.logits + found)


def play(monkeypatch: pytest.MonkeyPatch, **by_provider: float | Exception) -> Played:
    played = Played(**by_provider)
    monkeypatch.setattr(self_test, "self_test", played)
    return played


def test_the_first_that_passes_is_taken(golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    played = play(monkeypatch)
    assert choose(golden, AUTO) == provider_choice.Choice("tensorrt")
    assert played.tried == ["tensorrt"]


def test_one_that_starts_but_computes_something_else(golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, tensorrt=0.1)
    choice = choose(golden, AUTO)
    assert choice.provider == "cuda"
    (passed,) = choice.passed_over
    assert passed.provider == "tensorrt"
    assert passed.reason.startswith("4 of 4 golden predictions, logits off by 1.0e-01 (bound 0.005), ")
    assert "vg off by" in passed.reason and "(bound 0.02)" in passed.reason


@pytest.mark.parametrize("error", [ProviderError("no driver"), EngineError("inference failed: out of memory")])
def test_one_that_fails(golden: Bundle, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    play(monkeypatch, tensorrt=error, cuda=error)
    choice = choose(golden, AUTO)
    assert choice.provider == "cpu"
    assert choice.passed_over == (PassedOver("tensorrt", str(error)), PassedOver("cuda", str(error)))


def test_none_passes(golden: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, tensorrt=1.0, cuda=ProviderError("no driver"), cpu=1.0)
    with pytest.raises(ProviderError, match=r"no provider reproduces .*cuda passed over: no driver; provider cpu .*"):
        choose(golden, AUTO)


def test_a_bundle_that_is_at_fault_is_no_reason_to_try_on(tiny: Bundle) -> None:
    with pytest.raises(BundleError, match=r"holds no golden\.npz"):
        choose(tiny, AUTO)


def test_one_provider_for_several_bundles(
    golden: Bundle, tmp_path: Path, network: TinyNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_bundle(golden_bundle(tmp_path / "other", network, name="other"))
    real = self_test.self_test

    def only_the_first(bundle: Bundle, provider: str, *arguments: Any, **named: Any) -> self_test.SelfTest:
        if provider != "cpu" and bundle.manifest.name == "other":
            raise ProviderError("no memory left")
        return real(bundle, "cpu", *arguments, **named)

    monkeypatch.setattr(self_test, "self_test", only_the_first)
    choice = choose_for([(golden, "fp32"), (other, "fp32")], AUTO)
    assert choice.provider == "cpu"
    assert choice.passed_over[0].reason == "other in fp32: no memory left"


def test_the_manifests_bounds_decide(tmp_path: Path, network: TinyNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = {"fp32": {"tensorrt": Tolerance(logits=0.5, attribution=0.5)}}
    loose = open_bundle(golden_bundle(tmp_path / "loose", network, tolerances=bounds))
    assert self_test.tolerance_of(loose.manifest, "fp32", "tensorrt").logits == 0.5
    assert self_test.tolerance_of(loose.manifest, "fp32", "cuda") == self_test.TOLERANCES["fp32"]["cuda"]
    with pytest.raises(InputError, match="unknown precision 'int9'"):
        self_test.tolerance_of(loose.manifest, "int9", "cpu")
