"""Training in several processes: the same network as in one, written once, and an end for all when one ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edge_runtime.errors import InputError
from edge_runtime.variant import Variant
from tests.conftest import REPOSITORY
from tests.toolkit.conftest import Roadworthy, one_line
from tests.toolkit.squares import DATASET
from tests.toolkit.test_training import QUICK, weights, without_times
from toolkit import distributed, models, runs, training
from toolkit.adversarial import PgdConfig
from toolkit.data import Dataset, Split
from toolkit.distributed import Group

CONFIG = replace(QUICK, epochs=2, batch=101, learning_rate=0.01, schedule="constant")  # 203 images: 101, 102
KINDS = {"natural": CONFIG, "adversarial": replace(CONFIG, adversarial=PgdConfig(eps=0.05, step=0.02, steps=2))}
# Without batch normalisation and dropout, which treat each process's images apart.
VARIANT = Variant(dataset="squares", architecture="vgg16", width=0.125, input_size=32)
TRAIN = (
    *("train", "--data", "rendered?train=132&validation=44&test=66", "--size", "16", "--width", "0.25"),
    *("--epochs", "40", "--device", "cpu"),
)


def network() -> torch.nn.Module:
    model = models.build("vgg16", 4, width=0.125, input_size=32, seed=3)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def dataset() -> Dataset:
    def larger(split: Split) -> Split:
        return replace(split, images=split.images.repeat(2, axis=1).repeat(2, axis=2))

    return replace(DATASET, **{name: larger(getattr(DATASET, name)) for name in ("train", "validation", "test")})


def train_all(folder: Path) -> None:
    torch.set_num_threads(1)
    for kind, config in KINDS.items():
        training.train(dataset(), folder / kind, config, VARIANT, network())


def environment(**values: object) -> dict[str, str]:
    extra = {name: str(value) for name, value in values.items()}
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **extra}


def start(rank: int, size: int, port: int, *arguments: object) -> subprocess.Popen[str]:
    """Start one process of a training, as torchrun does."""
    together = environment(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    return subprocess.Popen(
        [sys.executable, "-m", "toolkit.cli", *map(str, arguments)],
        cwd=REPOSITORY,
        env=together,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.timeout(900)
def test_two_processes_train_the_network_of_one(tmp_path: Path) -> None:
    """Started by torchrun itself: the same losses and weights up to the order of sums, also under attack."""
    script = (
        "import sys; from pathlib import Path; from toolkit import distributed; from tests.toolkit import "
        "test_distributed as t\nwith distributed.joined('cpu') as group:\n    assert group.size == 2\n"
        "    t.train_all(Path(sys.argv[1]))\n"
    )
    (tmp_path / "job.py").write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = subprocess.run(
        [*torchrun, str(tmp_path / "job.py"), str(tmp_path / "two")],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    train_all(tmp_path / "one")
    for kind in KINDS:
        one, two = tmp_path / "one" / kind, tmp_path / "two" / kind
        assert {path.name for path in two.iterdir()} == {runs.WEIGHTS, runs.INFO, runs.METRICS}
        for first, second in zip(without_times(one), without_times(two), strict=True):
            assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
            assert first == pytest.approx(second, rel=1e-4, abs=0.02), "a few images may be on the edge"
        alone, shared = weights(one), weights(two)
        for name in alone:
            torch.testing.assert_close(alone[name], shared[name], rtol=1e-3, atol=1e-4)
        before = network().state_dict()
        assert max(float((alone[name] - before[name]).abs().max()) for name in alone) > 1e-3, "training moved them"


@pytest.mark.timeout(900)
def test_a_process_that_dies_ends_all_and_resuming_finishes(tmp_path: Path) -> None:
    """kill -9 of one process: the other says so in one line. Both go on from the checkpoint; the first one speaks."""
    out, port = tmp_path / "run", free_port()
    processes = [start(rank, 2, port, *TRAIN, "--out", out) for rank in (0, 1)]
    try:
        metrics = runs.partial_folder(out) / runs.METRICS
        deadline = time.monotonic() + 400
        while not (metrics.is_file() and metrics.read_text().count("\n")):
            assert all(process.poll() is None for process in processes) and time.monotonic() < deadline
            time.sleep(0.02)
        processes[1].kill()
        said, error = processes[0].communicate(timeout=400)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    lines = [line for line in error.splitlines() if line.startswith("roadworthy: ")]
    assert (processes[0].returncode, said, len(lines)) == (2, "", 1), error
    assert "another process of this training ended" in lines[0] and "--resume" in lines[0]
    assert not out.exists()
    done = len(runs.load_history(runs.partial_folder(out)))
    assert 0 < done < 40
    port = free_port()
    outcomes = ended([start(rank, 2, port, *TRAIN, "--out", out, "--resume") for rank in (0, 1)])
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    assert len(runs.load_history(out)) == 40 and [path.name for path in tmp_path.iterdir()] == ["run"]
    assert outcomes[0][1].startswith(f"{out}: ") and outcomes[0][1].count("\n") == 1
    assert outcomes[1][1] == "" and "132 train" in outcomes[0][2] and "132 train" not in outcomes[1][2]


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Return exit code, stdout and stderr of each."""
    said = [process.communicate(timeout=400) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


@pytest.mark.parametrize("size", range(1, 9))
def test_shares_cover_every_batch_once(size: int) -> None:
    for count in range(1, 40):
        parts = [range(count)[Group(rank, size).share(count)] for rank in range(size)]
        assert [number for part in parts for number in part] == list(range(count))
        assert all(len(part) >= 2 or not part for part in parts) or count == 1
        if count >= 2 * size:
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_changes() -> None:
    group, model = Group(), network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    group.check_same(b"anything")
    group.send(model.state_dict().values())
    group.average_statistics(model)
    group.add_gradients(model)
    group.wait()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(group.summed(torch.ones(2)), torch.ones(2))


def test_more_processes_than_images_are_refused() -> None:
    Group(0, 4).check_batch(8)
    with pytest.raises(
        InputError, match=r"5 processes share batches of 8 images.* start at most 4 of them or pass --batch 10"
    ):
        Group(0, 5).check_batch(8)


def test_commands_for_one_process_say_so(
    roadworthy: Roadworthy, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert distributed.launched() == 1
    monkeypatch.setattr(distributed, "launched", lambda: 2)
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *arguments, **options: None)
    monkeypatch.setattr(distributed.dist, "destroy_process_group", lambda: None)
    pruned = ("prune", tiny_run, "--method", "l1", "--fine-tune", 0, "--out", tmp_path / "run")
    assert "torchrun started 2; start it without torchrun" in one_line(roadworthy(*pruned))


def test_processes_that_do_not_meet_are_one_line(roadworthy: Roadworthy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert "the 2 processes of this training do not find one another" in one_line(
        roadworthy(*TRAIN, "--out", "nowhere")
    )
