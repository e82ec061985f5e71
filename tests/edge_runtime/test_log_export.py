"""Exports hold what the log holds, open in their tools, and never half."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.device import DeviceReadings
from edge_runtime.errors import InputError, LogError
from edge_runtime.log import AuditLog, EventRecord, ExplainerReading, FrameRecord, RoadWindow, read, verify
from edge_runtime.log.export import EXPORTERS, LOG_ID, export_log
from edge_runtime.log.mcap_export import merge_schema
from edge_runtime.log.thumbnails import BLANK, decode, encode_image, encode_overlay, encode_saliency
from edge_runtime.log.writer import Surroundings
from tests.edge_runtime.log_tools import IDENTITY, Watch, fill, open_log

FRAMES = 300
CHUNK_LIMIT = 64 << 10


def picture(number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def saliency(number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(number).random((64, 64), dtype=np.float32)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames with pictures and all measures, an event, flags, and a clock that is set in the middle."""
    path, watch = tmp_path_factory.mktemp("export") / "audit.log", Watch(wall=10**9)
    surroundings = Surroundings(clock=watch.clock())
    with AuditLog(path, IDENTITY, max_bytes=16 << 20, surroundings=surroundings) as log:
        for number in range(FRAMES):
            watch.advance(0.1, 1_800_000_000 if number == 100 else 0.1)
            log.append(
                FrameRecord(
                    frame_id=f"camera0/{number}",
                    prediction=number % 43,
                    label="stop, or «go»",
                    probability=float("nan") if number == 7 else 1 / (number + 1),
                    latency_ms={"classify": 4.5, **({"explain": 30.0} if number % 10 == 0 else {})},
                    explainers={"vg": ExplainerReading(gini=0.5, gradient_norm=2.0, reduction="sum_abs")},
                    road=(
                        RoadWindow(
                            measure="agreement", method="vg", order="morf", percentages=(1.0, 11.0), scores=(0.9, 0.5)
                        ),
                    )
                    if number == 20
                    else (),
                    device=DeviceReadings(power_watts=7.5, throttled=False, power_mode="15W")
                    if number % 5 == 0
                    else None,
                    saliency_method="vg",
                    image=encode_image(picture(number)) if number % 3 == 0 else None,
                    saliency=encode_saliency(saliency(number)),
                )
            )
        log.append(EventRecord(name="degraded", message="ROAD dropped", data={"queue": 2}))
    return path


def test_csv(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "drive.csv"
    assert export_log(log, out) == FRAMES + 1
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == FRAMES + 1
    assert rows[0]["time"] == "1970-01-01T00:00:01.100000000Z"
    assert rows[5]["label"] == "stop, or «go»"
    assert float(rows[2]["probability"]) == 1 / 3
    assert rows[7]["probability"] == ""
    assert json.loads(rows[7]["flags"]) == ["probability: nan"]
    assert json.loads(rows[20]["road"])[0]["scores"] == [0.9, 0.5]
    assert (rows[5]["device.power_watts"], rows[6]["device.power_watts"]) == ("7.5", "")
    assert rows[0]["bundle_digest"] == "ab" * 32
    assert (rows[-1]["kind"], rows[-1]["name"], rows[-1]["data.queue"]) == ("event", "degraded", "2.0")
    assert "image" not in rows[0]


def test_parquet(log: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "drive.parquet"
    assert export_log(log, out) == FRAMES + 1
    table = parquet.read_table(out)
    assert table.num_rows == FRAMES + 1
    types = {name: str(table.schema.field(name).type) for name in table.column_names}
    assert types["time"] == "timestamp[ns, tz=UTC]"
    assert types["probability"] == types["explainers.vg.gini"] == "double"
    assert types["prediction"] == types["sequence"] == "int64"
    assert types["device.throttled"] == "bool"
    rows = table.to_pylist()
    entries = list(read(log))
    for row, entry in zip(rows[:FRAMES], entries[:FRAMES], strict=True):
        record = entry.record
        assert isinstance(record, FrameRecord)
        assert (row["sequence"], row["wall_ns"]) == (entry.sequence, entry.stamp.wall_ns)
        assert (row["probability"], row["image"], row["saliency"]) == (
            record.probability,
            record.image,
            record.saliency,
        )
    assert rows[7]["probability"] is None


def test_parquet_row_groups_are_large_and_their_pictures_bounded(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert export_log(log, tmp_path / "one.parquet") == FRAMES + 1
    assert parquet.ParquetFile(tmp_path / "one.parquet").num_row_groups == 1
    monkeypatch.setattr("edge_runtime.log.export.ROWS_AT_ONCE", 10)
    monkeypatch.setattr("edge_runtime.log.export.BYTES_PER_GROUP", 100_000)
    assert export_log(log, tmp_path / "many.parquet") == FRAMES + 1
    many = parquet.ParquetFile(tmp_path / "many.parquet")
    assert many.num_row_groups > 5
    assert many.read().equals(parquet.read_table(tmp_path / "one.parquet"))
    pages = parquet.ParquetFile(tmp_path / "many.parquet", page_checksum_verification=True)
    assert pages.read().num_rows == FRAMES + 1


def test_parquet_names_its_log(log: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    export_log(log, tmp_path / "drive.parquet")
    assert parquet.read_schema(tmp_path / "drive.parquet").metadata[LOG_ID.encode()].decode() == verify(log).log_id


def test_mcap_holds_foxgloves_image_overlay_metric_and_log_topics(log: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader")
    decoder = pytest.importorskip("mcap_protobuf.decoder")
    out = tmp_path / "drive.mcap"
    assert export_log(log, out) == FRAMES + 1
    topics: dict[str, list[tuple[Any, Any, Any]]] = {}
    with out.open("rb") as file:
        made = reader.make_reader(file, decoder_factories=[decoder.DecoderFactory()])
        summary = made.get_summary()
        assert all(chunk.uncompressed_size <= CHUNK_LIMIT for chunk in summary.chunk_indexes)
        assert len(summary.chunk_indexes) > 10
        for schema, channel, message in made.iter_messages():
            topics.setdefault(channel.topic, []).append((schema, message, channel.message_encoding))
    assert {topic: found[0][0].name for topic, found in topics.items()} == {
        "/image": "foxglove.CompressedImage",
        "/overlay": "foxglove.CompressedImage",
        "/metrics": "roadworthy.Metrics",
        "/log": "foxglove.Log",
    }
    assert (len(topics["/image"]), len(topics["/overlay"]), len(topics["/metrics"])) == (100, FRAMES, FRAMES)
    decode_image = decoder.DecoderFactory().decoder_for("protobuf", topics["/image"][0][0])
    first = decode_image(topics["/image"][0][1].data)
    assert (first.format, first.frame_id) == ("jpeg", "camera")
    assert decode(first.data).shape == (64, 64, 3)
    overlay = decode_image(topics["/overlay"][1][1].data)
    assert overlay.format == "png"
    assert decode(overlay.data).shape == (64, 64, 3)
    numbers = json.loads(topics["/metrics"][5][1].data)
    assert (numbers["probability"], numbers["explainers"]["vg"]["gini"]) == (1 / 6, 0.5)
    assert "saliency" not in numbers
    schema = json.loads(topics["/metrics"][0][0].data)
    assert schema["properties"]["latency_ms"]["properties"]["explain"] == {"type": "number"}
    assert schema["properties"]["road"]["items"]["properties"]["scores"] == {
        "type": "array",
        "items": {"type": "number"},
    }
    decode_log = decoder.DecoderFactory().decoder_for("protobuf", topics["/log"][0][0])
    lines = [decode_log(message.data).message for _, message, _ in topics["/log"]]
    assert lines[0] == "camera0/7: probability: nan"
    assert lines[1].startswith("the wall clock was set by +1799999999.9")
    assert lines[2] == 'degraded: ROAD dropped {"queue": 2.0}'


def test_mcap_time_runs_evenly_through_a_clock_step(log: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader")
    out = tmp_path / "drive.mcap"
    export_log(log, out)
    with out.open("rb") as file:
        messages = [message for _, _, message in reader.make_reader(file).iter_messages(topics=["/metrics"])]
    steps = np.diff([message.log_time for message in messages])
    assert np.allclose(steps, 0.1e9, atol=2), "the first frames stand before the step, not in 1970"
    published = np.diff([message.publish_time for message in messages])
    assert published.max() == pytest.approx(1.8e18, rel=1e-6)


def test_a_schema_widens_with_what_it_describes() -> None:
    schema: dict[str, Any] = {}
    for value in ({"a": 1, "b": {"c": None}}, {"a": 1.5, "d": [True]}, {"b": {"c": "text"}}):
        merge_schema(schema, value)
    assert schema == {
        "type": "object",
        "properties": {
            "a": {"type": "number"},
            "b": {"type": "object", "properties": {"c": {"type": "string"}}},
            "d": {"type": "array", "items": {"type": "boolean"}},
        },
    }


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_format_exports_gaps_and_needs_no_frame(name: str, tmp_path: Path) -> None:
    for module in {"parquet": ["pyarrow"], "mcap": ["mcap", "foxglove_schemas_protobuf"]}.get(name, []):
        pytest.importorskip(module)
    evicted = fill(tmp_path / "evicted.log", 400, 0, max_bytes=1 << 20)
    empty = tmp_path / "empty.log"
    open_log(empty).close()
    assert export_log(evicted, tmp_path / f"evicted.{name}") == len(list(read(evicted)))
    assert export_log(empty, tmp_path / f"empty.{name}") == 0


def test_a_picture_that_is_none_names_its_record(tmp_path: Path) -> None:
    pytest.importorskip("mcap")
    path = fill(tmp_path / "audit.log", 3, 50)
    with pytest.raises(LogError, match="record 1: a thumbnail is no JPEG or PNG"):
        export_log(path, tmp_path / "drive.mcap")


def test_bad_requests(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "drive.csv"
    with pytest.raises(InputError, match="unknown export format 'xlsx'; known: csv, mcap, parquet"):
        export_log(log, tmp_path / "drive.xlsx")
    with pytest.raises(InputError, match="unknown export format 'parket'; nearest: parquet"):
        export_log(log, out, to="parket")
    with pytest.raises(InputError, match="is no folder; create it first"):
        export_log(log, tmp_path / "none" / "drive.csv")
    out.write_text("mine")
    with pytest.raises(InputError, match="already exists; choose another name or pass --force"):
        export_log(log, out)
    assert out.read_text() == "mine"
    assert export_log(log, out, force=True) == FRAMES + 1


def test_a_failing_export_leaves_the_old_file_and_nothing_else(log: Path, tmp_path: Path) -> None:
    out, bad = tmp_path / "drive.csv", tmp_path / "bad.log"
    out.write_text("mine")
    bad.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    with pytest.raises(LogError, match="cannot be read"):
        export_log(bad, out, force=True)
    assert out.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.log", "drive.csv"]


@pytest.mark.parametrize(("name", "missing"), [("parquet", "pyarrow"), ("mcap", "mcap"), ("mcap", "mcap_protobuf")])
def test_a_missing_library_gets_a_hint(
    name: str, missing: str, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    real = importlib.import_module

    def refuse(module: str, package: str | None = None) -> Any:
        if module.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}")
        return real(module, package)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(InputError, match=rf"this export needs {missing}: pip install 'roadworthy\[log\]'"):
        export_log(log, tmp_path / f"drive.{name}")
    assert list(tmp_path.iterdir()) == []


# --- thumbnails -------------------------------------------------------------------------------------------------------


def test_thumbnails_are_small_and_true() -> None:
    wide = np.zeros((200, 400, 3), np.uint8)
    wide[:, 200:] = 255
    thumbnail = decode(encode_image(wide))
    assert thumbnail.shape == (32, 64, 3)
    assert thumbnail[16, 5].max() < 10
    assert thumbnail[16, 60].min() > 245
    ramp = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    encoded = encode_saliency(-ramp)
    assert encoded is not None
    assert np.abs(decode(encoded) / 255.0 - np.minimum(ramp / np.percentile(ramp, 99), 1)).max() < 0.004


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_saliency_that_is_not_finite_has_no_thumbnail(bad: float) -> None:
    map_ = np.ones((8, 8), np.float32)
    map_[3, 3] = bad
    assert encode_saliency(map_) is None


def test_all_zero_saliency_is_a_dark_thumbnail() -> None:
    encoded = encode_saliency(np.zeros((8, 8), np.float32))
    assert encoded is not None
    assert decode(encoded).max() == 0


def test_an_overlay_without_image_stands_on_grey() -> None:
    encoded = encode_saliency(np.zeros((8, 8), np.float32))
    assert encoded is not None
    pixel = decode(encode_overlay(None, encoded))[0, 0]
    assert 0 < pixel.mean() < BLANK


@pytest.mark.parametrize("data", [b"", b"no picture", encode_image(np.zeros((64, 64, 3), np.uint8))[:100]])
def test_bytes_that_are_no_picture(data: bytes) -> None:
    with pytest.raises(LogError, match="is no JPEG or PNG"):
        decode(data)
