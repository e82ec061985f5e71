"""What the CPU image of the device runtime adds to its base, and whether it works:
`python -m benchmarks.image BUNDLE [--engine buildah] [--base BASE] [--image IMAGE ...]`.

The images come from `docker/build.sh`; BUNDLE needs a golden and an audit set. Bar: under 300 MB above the base.
Sizes are those of all files, uncompressed, each counted once.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common import record
from benchmarks.image_checks import RunImage, buildah, check_image, mounted

BAR_MB = 300.0
STORAGE = Path("/var/tmp/roadworthy-images")
LARGEST = 12


def size(root: Path) -> int:
    """Return the bytes of all files and links below ``root``, hard links counted once, other file systems left out."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder, folders, files in os.walk(root):
        folders[:] = [each for each in folders if not os.path.ismount(os.path.join(folder, each))]
        for name in files:
            found = os.lstat(os.path.join(folder, name))
            if (found.st_dev, found.st_ino) not in seen:
                seen.add((found.st_dev, found.st_ino))
                total += found.st_size
    return total


def parts(root: Path) -> dict[str, float]:
    """Return megabytes of the largest packages of the image's Python environment, and of all others together."""
    found: Counter[str] = Counter()
    for path in root.glob("opt/roadworthy/lib/python*/site-packages/*"):
        found[path.name.removesuffix(".libs")] += size(path) if path.is_dir() else path.lstat().st_size
    largest = dict(found.most_common(LARGEST))
    largest["others"] = found.total() - sum(largest.values())
    return {name: megabytes(count) for name, count in largest.items()}


def megabytes(count: int) -> float:
    return round(count / 1e6, 1)


def engine_size(engine: str, name: str) -> int:
    """Return what docker or podman says of an image's size."""
    command = [engine, "image", "inspect", "--format", "{{.Size}}", name]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """Return an image's row: sizes, and which checks it passed."""
    if options.engine == "buildah":
        with mounted(options.storage, name, options.bundle) as image:
            found = {"image_mb": megabytes(size(image.root)), "packages_mb": parts(image.root)}
            checks = check_image(image)
        container = buildah(options.storage, "from", options.base)
        base = size(Path(buildah(options.storage, "mount", container)))
        buildah(options.storage, "rm", container)
    else:
        found = {"image_mb": megabytes(engine_size(options.engine, name))}
        base = engine_size(options.engine, options.base)
        volume = f"roadworthy-check-{os.getpid()}"
        try:
            checks = check_image(RunImage(options.engine, name, options.bundle, volume))
        finally:
            subprocess.run([options.engine, "volume", "rm", "--force", volume], check=False)
    added = round(found["image_mb"] - megabytes(base), 1)
    sizes = {"base_mb": megabytes(base), "added_mb": added, "within_bar": added < BAR_MB, **found}
    return {"image": name.rpartition("/")[2], **sizes, "checks": checks}


def main(arguments: list[str]) -> int:
    """Measure, check and record; the first image is the one that the bar is for."""
    parser = argparse.ArgumentParser(prog="benchmarks.image")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="buildah", choices=("buildah", "docker", "podman"))
    parser.add_argument("--base", default="localhost/debian:trixie-bootstrap")
    parser.add_argument("--image", action="append", help="may be repeated  [default: roadworthy:edge-cpu]")
    parser.add_argument("--storage", type=Path, default=STORAGE, help="where docker/build.sh let buildah keep images")
    parser.add_argument("--no-record", action="store_true", help="leave the record as it is")
    options = parser.parse_args(arguments)
    options.bundle = options.bundle.resolve()
    rows = []
    for name in options.image or ["roadworthy:edge-cpu"]:
        rows.append(measure(options, name if options.engine == "docker" else f"localhost/{name}"))
        print({key: value for key, value in rows[-1].items() if key != "checks"})
    if not options.no_record:
        print(record("image", rows, engine=options.engine, base=options.base, bar_mb=BAR_MB))
    return 0 if rows[0]["within_bar"] and all(passed for row in rows for passed in row["checks"].values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
