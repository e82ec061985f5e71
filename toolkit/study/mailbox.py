"""What cells on other machines report, kept until the study fetches it; imports nothing, so that it starts at once."""

from __future__ import annotations

Letter = tuple[str, str, float]
"""The name of a cell, what it does, and the share 0..1 of that."""


class Mailbox:
    """A Ray actor: workers put letters in, the study takes them out. Only the last letter of a cell is kept."""

    def __init__(self) -> None:
        self._letters: dict[str, Letter] = {}

    def put(self, letter: Letter) -> None:
        self._letters[letter[0]] = letter

    def take(self) -> list[Letter]:
        letters, self._letters = list(self._letters.values()), {}
        return letters
