"""A library that is not there gives the way to get it."""

from __future__ import annotations

import json

import pytest

from edge_runtime.errors import InputError
from edge_runtime.extras import library


def test_library() -> None:
    assert library("json", "log", "this export") is json
    with pytest.raises(InputError, match=r"^a video needs absent: pip install 'roadworthy\[vehicle\]'$"):
        library("absent.inner", "vehicle", "a video")
