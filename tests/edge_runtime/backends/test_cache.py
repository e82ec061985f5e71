"""Nothing is loaded but what this device built, unchanged, for what is here now; the rest is as good as absent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from edge_runtime.backends.cache import ENGINE, RECORD, TIMING, EngineCache, Subject, private_folder
from edge_runtime.backends.keys import BuildOptions, Platform, Profile
from edge_runtime.errors import ProviderError
from tests.edge_runtime.backends.test_keys import HERE

SUBJECT = Subject("natural", "classifier.onnx", "a" * 64, (Profile(images=(1, 1, 4)),))
PLAN = bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def stored(cache: EngineCache, plan: bytes = PLAN, platform: Platform = HERE, **options: object) -> Path:
    """Store an engine and return its file."""
    key = SUBJECT.key(platform, BuildOptions(**options))  # type: ignore[arg-type]
    cache.store(SUBJECT, key, plan, 12.3456)
    return cache.folder / f"{key.digest}{ENGINE}"


def found(cache: EngineCache, here: Platform = HERE, options: BuildOptions | None = None) -> bytes | None:
    answer = cache.find(SUBJECT, here, options)
    return None if answer is None else answer[1]


def test_what_was_stored_is_found(cache: EngineCache) -> None:
    assert found(cache) is None
    file = stored(cache)
    assert found(cache) == PLAN
    assert {path.stat().st_mode & 0o777 for path in (file, Path(f"{file}{RECORD}"))} == {0o600}
    assert cache.folder.stat().st_mode & 0o777 == 0o700
    (entry,) = cache.entries(HERE)
    assert entry.problem is None and entry.record is not None
    assert (entry.record.bundle, entry.record.file, entry.record.seconds) == ("natural", "classifier.onnx", 12.346)


@pytest.mark.parametrize(
    "change",
    [
        {"tensorrt": "11.4.0"},
        {"compute_capability": "11.0"},
        {"l4t_release": "38.0"},
        {"gpu": "Thor"},
        {"machine": "x86_64"},
    ],
)
def test_a_foreign_engine_is_not_found(cache: EngineCache, change: dict[str, str]) -> None:
    stored(cache)
    assert found(cache, msgspec.structs.replace(HERE, **change)) is None
    (entry,) = cache.entries(msgspec.structs.replace(HERE, **change))
    assert entry.problem is not None and entry.problem.startswith("built ")


def test_an_engine_of_another_model_or_other_profiles_is_not_found(cache: EngineCache) -> None:
    stored(cache)
    for other in (
        Subject("natural", "classifier.onnx", "b" * 64, SUBJECT.profiles),
        Subject("natural", "classifier.onnx", SUBJECT.model, (Profile(images=(1, 2, 4)),)),
    ):
        assert cache.find(other, HERE) is None


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one byte": lambda file: rewrite(file, lambda data: data[:100] + b"\0" + data[101:]),
    "shorter": lambda file: rewrite(file, lambda data: data[:-1]),
    "longer": lambda file: rewrite(file, lambda data: data + b"\0"),
    "empty": lambda file: file.write_bytes(b""),
    "no record": lambda file: Path(f"{file}{RECORD}").unlink(),
    "damaged record": lambda file: Path(f"{file}{RECORD}").write_bytes(b'{"key":'),
    "record with more fields": lambda file: rewrite(Path(f"{file}{RECORD}"), lambda data: data[:-3] + b',"x":1}\n'),
    "record of another key": lambda file: rewrite(
        Path(f"{file}{RECORD}"), lambda data: data.replace(b'"10.3.0"', b'"10.4.0"')
    ),
    "record of another format": lambda file: rewrite(
        Path(f"{file}{RECORD}"), lambda data: data.replace(b'"format": 1', b'"format": 2')
    ),
    "group may read": lambda file: file.chmod(0o640),
    "others may write the record": lambda file: Path(f"{file}{RECORD}").chmod(0o602),
    "a link": lambda file: (file.rename(file.with_suffix(".away")), file.symlink_to(file.with_suffix(".away"))),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "a pipe": lambda file: (file.unlink(), os.mkfifo(file, 0o600)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_changed_engine_is_not_found(cache: EngineCache, damage: str) -> None:
    file = stored(cache)
    DAMAGE[damage](file)
    assert found(cache) is None
    (entry,) = cache.entries(HERE)
    assert entry.problem in ("no record of what it is", "not the file that was built")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_somebody_elses_file_is_not_found(cache: EngineCache) -> None:
    file = stored(cache)
    os.chown(file, 12345, 12345)
    assert found(cache) is None


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o707])
def test_a_folder_that_others_may_enter_is_refused(cache: EngineCache, mode: int) -> None:
    stored(cache)
    cache.folder.chmod(mode)
    for attempt in (lambda: found(cache), lambda: stored(cache), lambda: cache.entries(HERE), lambda: cache.clear()):
        with pytest.raises(ProviderError, match=r"not a folder of this user alone.*chmod 700"):
            attempt()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_somebody_elses_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir(mode=0o700)
    os.chown(tmp_path / "engines", 12345, 12345)
    with pytest.raises(ProviderError, match="not a folder of this user alone"):
        private_folder(tmp_path / "engines")


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    (tmp_path / "engines").symlink_to(tmp_path / "there")
    with pytest.raises(ProviderError, match="not a folder of this user alone"):
        private_folder(tmp_path / "engines")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ProviderError, match=r"cannot be made.*set XDG_CACHE_HOME"):
        private_folder(tmp_path / "file" / "engines")


def test_the_newest_of_those_that_run_is_taken(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(cache, b"plain")
    stored(cache, b"compatible", version_compatible=True)
    assert found(cache) == b"compatible"
    assert found(cache, options=BuildOptions()) == b"plain"
    later = msgspec.structs.replace(HERE, tensorrt="10.16.1")
    assert found(cache, later) == b"compatible"
    file = next(path for path in cache.folder.glob(f"*{ENGINE}") if path.read_bytes() == b"compatible")
    file.write_bytes(b"compatiblE")
    assert found(cache) == b"plain"


def test_timing_is_kept_per_platform(cache: EngineCache) -> None:
    assert cache.timing(HERE) == b""
    cache.store_timing(HERE, b"timing")
    assert cache.timing(HERE) == b"timing"
    assert cache.timing(msgspec.structs.replace(HERE, tensorrt="10.4.0")) == b""
    (file,) = cache.folder.glob(f"*{TIMING}")
    file.write_bytes(b"timinG")
    assert cache.timing(HERE) == b""
    assert cache.entries(HERE) == []


def test_clearing(cache: EngineCache) -> None:
    assert cache.clear() == 0
    kept, gone = stored(cache, b"kept"), stored(cache, b"gone", optimization_level=5)
    cache.store_timing(HERE, b"timing")
    assert cache.clear([gone.name.removesuffix(ENGINE)]) == 1
    assert kept.exists() and not gone.exists() and cache.timing(HERE) == b"timing"
    assert cache.clear() == 1
    assert [path.name for path in cache.folder.iterdir()] == ["lock"]


def test_a_full_disk_is_one_line(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stored(cache)

    def full(path: Path, data: bytes, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_runtime.backends.cache.write_durably", full)
    with pytest.raises(ProviderError, match=r"cannot be written .No space left on device.; make room"):
        stored(cache, b"new")
    assert file.exists() and found(cache) is None  # its record went first, so that it never describes another engine


KILLED = """
import os, sys
from pathlib import Path
from edge_runtime.backends import cache as module
from tests.edge_runtime.backends.test_cache import stored
from edge_runtime.backends.cache import EngineCache
left = int(sys.argv[2])
def counted(name, function):
    def call(*arguments, **named):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*arguments, **named)
    return call
for name in ("open", "replace", "fsync", "unlink"):
    setattr(os, name, counted(name, getattr(os, name)))
stored(EngineCache(Path(sys.argv[1])), b"new engine")
os._exit(0)
"""


def test_a_kill_at_any_step_leaves_the_engine_whole_or_absent(tmp_path: Path) -> None:
    outcomes = set()
    for step in range(40):
        cache = EngineCache(tmp_path / str(step))
        stored(cache)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(cache.folder), str(step)], cwd=Path.cwd(), check=False, timeout=60
        )
        outcomes.add(found(cache))
        if done.returncode == 0:
            break
    assert done.returncode == 0 and outcomes == {PLAN, None, b"new engine"}


def test_builders_take_turns(cache: EngineCache) -> None:
    order: list[str] = []
    held = threading.Event()

    def other() -> None:
        held.wait(10)
        with EngineCache(cache.folder).lock():
            order.append("second")

    thread = threading.Thread(target=other)
    thread.start()
    with cache.lock():
        held.set()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
