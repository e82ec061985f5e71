"""Every sample is kept, bundles alternate, cold starts come from fresh processes, and results survive JSON."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edge_runtime import benchmark as module
from edge_runtime import cold_start
from edge_runtime.benchmark import (
    Benchmark,
    BenchmarkOptions,
    BenchmarkResult,
    Series,
    Subject,
    benchmark_bundles,
    fresh_process,
    measure,
    unique_names,
    warm_up,
)
from edge_runtime.benchmark_output import format_table, write_samples
from edge_runtime.bundle import Bundle, open_bundle
from edge_runtime.device import DeviceSampler
from edge_runtime.errors import BundleError, InputError, ProviderError
from edge_runtime.software import software_versions
from edge_runtime.workload import STAGES, Workload, benchmark_images
from tests.edge_runtime.tiny_bundle import SIZE, TinyNetwork, npz, tiny_files, write_tiny_bundle

QUICK = BenchmarkOptions(iterations=12, warmup=1, cold_starts=0, threads=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, network: TinyNetwork) -> Bundle:
    folder = tmp_path_factory.mktemp("other") / "bundle"
    return open_bundle(write_tiny_bundle(folder, tiny_files(network), name="other"))


@pytest.fixture(scope="module")
def measured(tiny: Bundle, other: Bundle) -> Benchmark:
    return benchmark_bundles([tiny, other], msgspec.structs.replace(QUICK, batches=(1, 3), cold_starts=1))


def test_every_stage_batch_and_bundle_is_measured(measured: Benchmark) -> None:
    found = {(each.bundle, each.stage, each.batch) for each in measured.result.measurements}
    assert found == {(name, stage, batch) for name in ("tiny", "other") for stage in STAGES for batch in (1, 3)}
    for each in measured.result.measurements:
        assert each.latency.count == 12
        assert each.throughput == pytest.approx(1e3 * each.batch / each.latency.mean)
        assert 0 < each.latency.p50 <= each.latency.p99 <= each.latency.max


def test_every_sample_is_kept(measured: Benchmark) -> None:
    for series, row in zip(measured.series, measured.result.measurements, strict=True):
        assert (series.bundle, series.stage, series.batch) == (row.bundle, row.stage, row.batch)
        assert len(series.milliseconds) == len(series.turns) == 12
        assert row.latency.mean == pytest.approx(np.mean(series.milliseconds))
        assert row.latency.max == max(series.milliseconds)


def test_the_result_survives_json(measured: Benchmark) -> None:
    data = msgspec.json.encode(measured.result)
    assert msgspec.json.decode(data, type=BenchmarkResult) == measured.result
    assert b"NaN" not in data


def test_the_result_names_what_was_measured_and_with_what(measured: Benchmark, tiny: Bundle, other: Bundle) -> None:
    result = measured.result
    assert result.bundles == {"tiny": tiny.digest, "other": other.digest}
    assert result.software["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"onnxruntime", "numpy"} <= set(result.software) == set(software_versions())
    assert result.device.cores is None or result.device.cores >= 1


def test_cold_starts_are_phases_of_fresh_processes(measured: Benchmark) -> None:
    assert [each.bundle for each in measured.result.cold_starts] == ["tiny", "other"]
    for each in measured.result.cold_starts:
        assert list(each.phases) == [
            "interpreter",
            "import",
            "open_bundle",
            "classifier_session",
            "first_class",
            "explainer_session",
            "first_explanation",
        ]
        assert all(len(values) == 1 and values[0] > 0 for values in each.phases.values())
        assert 0 < each.steady_mib[0] <= each.peak_mib[0]


def test_a_fresh_process_loads_neither_torch_nor_onnx(
    tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch", "onnx"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('desktop library loaded on the device')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert fresh_process(Subject(tiny, "fp32"), QUICK)["laps"]["first_class"] > 0


def test_a_fresh_process_that_fails_says_why(tiny_folder: Path) -> None:
    bundle = open_bundle(tiny_folder)
    (tiny_folder / "explainer.onnx").write_bytes(b"changed")
    with pytest.raises(ProviderError, match=r"\(exit code 2\): .*explainer\.onnx has 7 bytes"):
        fresh_process(Subject(bundle, "fp32"), QUICK)


def test_a_fresh_process_that_hangs_is_ended(tiny: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COLD_START_TIMEOUT", 0.01)
    with pytest.raises(ProviderError, match=r"within 0\.01 s"):
        fresh_process(Subject(tiny, "fp32"), QUICK)


def test_memory_is_empty_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(cold_start.memory()) == {"steady", "peak"}
    monkeypatch.setattr("builtins.open", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError()))
    assert cold_start.memory() == {}


def test_bundles_alternate_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", 0.0)  # turns of one call
    order: list[str] = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    with DeviceSampler() as sampler:
        found = measure(calls, "classify", 1, msgspec.structs.replace(QUICK, iterations=3, warmup=0), sampler, None)
    # One call each to learn their length, then per turn one that does not count and one that does.
    assert order == ["a", "b"] + ["a", "a", "b", "b"] * 3
    assert [series.turns for series in found] == [[0, 1, 2], [0, 1, 2]]


def test_a_single_bundle_wastes_no_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    count = []
    with DeviceSampler() as sampler:
        measure({"a": lambda: count.append(1)}, "classify", 1, QUICK, sampler, None)
    assert len(count) == QUICK.iterations + QUICK.warmup + 1


def test_by_seconds(tiny: Bundle) -> None:
    progress: list[tuple[str, int, int]] = []
    options = msgspec.structs.replace(QUICK, stages=("classify",), seconds=0.3, iterations=1)
    found = benchmark_bundles([tiny], options, lambda *told: progress.append(told))
    assert found.result.measurements[0].latency.count > 20
    assert progress[-1] == ("classify, batch 1", found.result.measurements[0].latency.count, 0)


def test_warm_up_returns_the_last_duration() -> None:
    calls = []
    assert warm_up(lambda: calls.append(1), 4) > 0
    assert len(calls) == 5


def test_energy_per_image_counts_only_the_own_turns() -> None:
    series = Series("a", "classify", 4, milliseconds=[10.0] * 5, turns=[0] * 5, joules=2.0)
    found = series.finish(QUICK)
    assert found.joules == pytest.approx(2.0 / 20)
    assert found.steady is None and found.watts is None
    assert Series("a", "classify", 4, milliseconds=[10.0], turns=[0]).finish(QUICK).joules is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"provider": "cpuu", "cold_starts": 1}, "unknown provider 'cpuu'; nearest: cpu"),
        ({"stages": ("clasify",)}, "unknown stage 'clasify'; nearest: classify"),
        ({"stages": ()}, "at least one stage"),
        ({"batches": ()}, r"batches are \[\]"),
        ({"batches": (1, 0)}, r"batches are \[1, 0\]"),
        ({"iterations": 0}, "iterations is 0; give at least 1"),
        ({"warmup": -1}, "warmup is -1"),
        ({"cold_starts": -1}, "cold_starts is -1"),
        ({"seconds": 0.0}, "seconds is 0"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"provider": "gpu"}, "unknown provider 'gpu'"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_options_that_cannot_be(tiny: Bundle, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        benchmark_bundles([tiny], msgspec.structs.replace(QUICK, **changes))


def test_bundles_that_cannot_be_told_apart(tiny: Bundle, tiny_folder: Path) -> None:
    with pytest.raises(InputError, match="there is no bundle to measure"):
        unique_names([])
    with pytest.raises(InputError, match="a bundle is named twice"):
        unique_names([tiny, tiny])
    assert list(unique_names([tiny, open_bundle(tiny_folder)])) == [f"tiny ({tiny.path})", f"tiny ({tiny_folder})"]


def test_a_bundle_without_explainer_can_only_classify(tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network)
    del files["explainer.onnx"]
    bundle = open_bundle(write_tiny_bundle(tmp_path / "bundle", files))
    only = benchmark_bundles([bundle], msgspec.structs.replace(QUICK, stages=("classify",), cold_starts=1))
    assert "explainer_session" not in only.result.cold_starts[0].phases
    with pytest.raises(BundleError, match=r"holds no explainer\.onnx"):
        benchmark_bundles([bundle], QUICK)
    work = Workload(bundle, classifier=None, explainer=None, images=benchmark_images(bundle, 1), seed=0)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="time only 'classify'"):
        work.require_explainer()


def test_images_are_the_bundles_own(tiny: Bundle, tmp_path: Path, network: TinyNetwork) -> None:
    files = tiny_files(network)
    own = benchmark_images(tiny, 30)
    assert own.shape == (30, 3, SIZE, SIZE) and own.dtype == np.float32
    np.testing.assert_array_equal(own[12], own[0])
    del files["audit_set.npz"]
    bare = benchmark_images(open_bundle(write_tiny_bundle(tmp_path / "bare", files)), 5)
    assert bare.shape == (5, 3, SIZE, SIZE) and len(np.unique(bare.reshape(5, -1), axis=0)) == 5
    golden = np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
    arrays = {"images": golden, "target": np.zeros(2, np.int64), "logits": np.zeros((2, 5), np.float32)}
    with_golden = open_bundle(write_tiny_bundle(tmp_path / "golden", files | {"golden.npz": npz(**arrays)}))
    np.testing.assert_array_equal(benchmark_images(with_golden, 3), golden[[0, 1, 0]])


def test_table(measured: Benchmark) -> None:
    lines = format_table(measured.result).splitlines()
    assert lines[0].split()[:5] == ["bundle", "stage", "batch", "n", "mean"]
    rows = [line.split() for line in lines if line.startswith(("tiny", "other"))]
    assert len(rows) == 2 * len(STAGES) * 2 + 2
    first = measured.result.measurements[0]
    assert rows[0][:5] == [first.bundle, first.stage, "1", "12", f"{first.latency.mean:.3f}"]
    assert any(line.startswith("cold start") and "peak MiB" in line for line in lines)


def test_table_says_what_moved(measured: Benchmark) -> None:
    moving = msgspec.structs.replace(measured.result.measurements[0], steady=False, moved=("throttled: cpu",))
    result = msgspec.structs.replace(measured.result, measurements=(moving,), cold_starts=())
    assert format_table(result).endswith("not steady:\n  tiny, classify, batch 1: throttled: cpu")


def test_samples_as_parquet(measured: Benchmark, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write_samples(measured, tmp_path / "samples.parquet")
    table = parquet.read_table(path)
    assert table.column_names == ["bundle", "stage", "batch", "turn", "sample", "milliseconds"]
    assert table.num_rows == sum(len(each.milliseconds) for each in measured.series)
    kept = [value for each in measured.series for value in each.milliseconds]
    np.testing.assert_array_equal(table["milliseconds"].to_numpy(), kept)
    stored = msgspec.json.decode(table.schema.metadata[b"roadworthy.benchmark"], type=BenchmarkResult)
    assert stored == measured.result
    with pytest.raises(InputError, match="already exists"):
        write_samples(measured, path)
    assert write_samples(measured, path, force=True) == path
    with pytest.raises(InputError, match="cannot be written"):
        write_samples(measured, tmp_path / "absent" / "samples.parquet")
    assert [each.name for each in tmp_path.iterdir()] == ["samples.parquet"]


def test_parquet_needs_pyarrow(measured: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        write_samples(measured, tmp_path / "samples.parquet")
