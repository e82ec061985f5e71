"""Specs and ``load``: names, options, digest, normalisation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.errors import DataError, InputError
from toolkit.data import DATASETS, MEAN, STD, load, parse

SMALL = "rendered?train=60&validation=22&test=22"


@pytest.mark.parametrize(
    ("spec", "kind", "path", "options"),
    [
        ("rendered", "rendered", "", {}),
        ("gtsrb:/data/gtsrb", "gtsrb", "/data/gtsrb", {}),
        ("lisa:data?classes=14", "lisa", "data", {"classes": "14"}),
        ("folder:what?/signs", "folder", "what?/signs", {}),
        ("npz:a:b.npz?mean=.5,.5,.5&std=1,1,1", "npz", "a:b.npz", {"mean": ".5,.5,.5", "std": "1,1,1"}),
    ],
)
def test_a_spec_is_taken_apart(spec: str, kind: str, path: str, options: dict[str, str]) -> None:
    parsed = parse(spec)
    assert (parsed.kind, parsed.path, parsed.options) == (kind, path, options)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rendred", "unknown data set 'rendred'; nearest: rendered"),
        ("gtsrb", "data set 'gtsrb' needs a path: gtsrb:PATH"),
        ("rendered:somewhere", "takes no path, but 'somewhere' was given"),
        ("lisa:x?clases=14", "unknown option of data set 'lisa' 'clases'; nearest: classes"),
        ("lisa:x?classes=", "option 'classes' of data set 'lisa' has no value"),
        ("rendered?train=many", "train='many' is not a number of images"),
        ("rendered?test=3", "test='3' is not a number of images, 22"),
        ("rendered?mean=.5", "mean='.5' is not three numbers"),
        ("rendered?std=0,1,1", "std='0,1,1' must lie in 0 .. 1"),
        ("rendered?mean=120,110,100", "must lie in 0 .. 1"),
    ],
)
def test_a_wrong_spec_is_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_wrong_arguments_name_the_value() -> None:
    with pytest.raises(InputError, match="image size 4 is too small"):
        load(SMALL, size=4)
    with pytest.raises(InputError, match="unknown split 'trak'; nearest: track"):
        load("gtsrb:/nowhere", split="trak")  # said before anything is read
    with pytest.raises(DataError, match="the paper has no split of 'rendered'"):
        load(SMALL, split="paper")


def test_normalisation_is_the_studys_unless_given() -> None:
    dataset = load(SMALL)
    assert (dataset.mean, dataset.std) == (MEAN, STD)
    given = load(f"{SMALL}&mean=0.5,0.4,0.3&std=0.25,0.25,0.25")
    assert (given.mean, given.std) == ((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))
    assert given.digest == dataset.digest


def test_the_digest_follows_images_labels_and_names(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), np.uint8)
    labels = np.arange(20) % 2

    def digest_of(images: np.ndarray, labels: np.ndarray, names: list[str], seed: int = 0) -> str:
        np.savez(tmp_path / "set.npz", images=images, labels=labels, names=names)
        return load(f"npz:{tmp_path / 'set.npz'}", size=8, seed=seed).digest

    first = digest_of(images, labels, ["a", "b"])
    changed = images.copy()
    changed[3, 0, 0, 0] ^= 1
    others = [
        digest_of(changed, labels, ["a", "b"]),
        digest_of(images, 1 - labels, ["a", "b"]),
        digest_of(images, labels, ["a", "c"]),
        digest_of(images, labels, ["a", "b"], seed=1),
    ]
    assert len(first) == 64
    assert digest_of(images, labels, ["a", "b"]) == first
    assert len({first, *others}) == 5


def test_describe_names_the_first_damaged_image() -> None:
    dataset = load(SMALL)
    assert dataset.describe() == "rendered: 60 train, 22 validation, 22 test images, 22 classes"
    damaged = type(dataset)(**{**dataset.__dict__, "skipped": ("a.png is truncated", "b.png is empty")})
    assert damaged.describe().endswith("; left out 2 damaged, first: a.png is truncated")


def test_every_kind_says_what_it_is() -> None:
    assert all(kind.about for kind in DATASETS.values())


def test_importing_the_catalogue_does_not_load_torch() -> None:
    code = "import sys, toolkit.data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
