"""Data sets for training and studies. Batches for training come from ``toolkit.data.loader``, which needs torch."""

from toolkit.data.catalogue import DATASETS, DEFAULT_SIZE, DEFAULT_SPLIT, load, parse
from toolkit.data.dataset import MEAN, STD, Dataset, Split
from toolkit.data.splits import SPLITS

__all__ = [
    "DATASETS",
    "DEFAULT_SIZE",
    "DEFAULT_SPLIT",
    "MEAN",
    "SPLITS",
    "STD",
    "Dataset",
    "Split",
    "load",
    "parse",
]
