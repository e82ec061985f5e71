"""``folder:PATH``: one folder of images per class, directly or below ``train``, ``validation`` and ``test``."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge_runtime.errors import DataError
from edge_runtime.image_set import image_files
from toolkit.data.dataset import Source
from toolkit.data.reading import Item, Request, class_folders, read_image, read_parts, require_folder

# In lower case; the first that exists is taken.
PART_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val"),
    "test": ("test", "testing"),
}


def read_folder(request: Request) -> Source:
    """Read ``folder:PATH``; the class folders of the training part name and order the labels."""
    folders = find_parts(require_folder(request.path))
    names = tuple(folder.name for folder in class_folders(folders["train"]))
    if len(names) < 2:
        raise DataError(
            f"{folders['train']} holds {len(names)} class folders, but two are needed: one folder per class"
        )
    parts = {part: list_items(folder, names) for part, folder in folders.items()}
    splits, skipped, _ = read_parts(parts, request)
    validation, test = splits.get("validation"), splits.get("test")
    return Source(request.path.resolve().name, names, splits["train"], validation, test, skipped=skipped)


def find_parts(path: Path) -> dict[str, Path]:
    """Return the folder of each part; a folder without a training part is the training part."""
    below = {entry.name.lower(): entry for entry in path.iterdir() if entry.is_dir()}
    found = {part: [below[name] for name in names if name in below] for part, names in PART_FOLDERS.items()}
    if not found["train"]:
        return {"train": path}
    return {part: folders[0] for part, folders in found.items() if folders}


def list_items(folder: Path, names: tuple[str, ...]) -> list[Item]:
    """List the images of every class folder. Raises DataError for a class without images or unknown to training."""
    items = []
    for below in class_folders(folder):
        if below.name not in names:
            raise DataError(f"{below} is no class of the training part; add it there or remove it")
        files = list(image_files(below))
        if not files:
            raise DataError(f"class folder {below} holds no images; add some or remove it")
        items += [Item(names.index(below.name), partial(read_image, path)) for path in files]
    if not items:
        raise DataError(f"{folder} holds no class folders: one folder of images per class is needed")
    return items
