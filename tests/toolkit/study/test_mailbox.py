"""The last letter of each cell, once."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPOSITORY
from toolkit.study.mailbox import Mailbox


def test_only_the_last_letter_of_a_cell_is_kept() -> None:
    box = Mailbox()
    for letter in (("a", "training", 0.1), ("b", "training", 0.2), ("a", "explaining", 0.5)):
        box.put(letter)
    assert sorted(box.take()) == [("a", "explaining", 0.5), ("b", "training", 0.2)]
    assert box.take() == []


def test_it_starts_without_pytorch() -> None:
    script = "import sys, toolkit.study.mailbox; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True)
