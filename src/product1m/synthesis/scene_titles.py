"""Titles of scenes: pieces of the sources' captions, so that each product shows but none wholly."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

_BLANKLESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Letters of scripts that are written without blanks: Han, kana, Hangul."""
_RUN = re.compile(
    rf"(?P<blankless>[{_BLANKLESS}]+)|(?:[^\W{_BLANKLESS}]|(?<=\w)[.'’&%+-](?=\w))+%?"
)
_LONGEST_PIECE = {True: 6, False: 2}
"""Units of a piece, of blankless scripts (characters) and of others (words) (ours)."""
_MAX_SHARED_CHARS = 16
"""Longest common run that opens a title, such as a brand's name (ours)."""

Units = tuple[str, ...]


class TitleComposer:
    """Knows from many captions where a script without blanks has its words."""

    def __init__(self, captions: Iterable[str]) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()
        for caption in captions:
            self._pairs.update(pairwise(units(caption)))

    def compose(self, captions: Sequence[str], max_chars: int, rng: np.random.Generator) -> str:
        """A title of at most `max_chars` that tells of every caption and repeats none.

        What all captions share (a brand's name) comes first, then shuffled pieces of each caption
        in its turn: a few characters of Chinese, up to two words of other scripts.
        """
        texts = [units(caption) for caption in captions]
        shared = longest_shared(list(dict.fromkeys(texts)))
        queues = [_shuffled(self._pieces_without(text, shared), rng) for text in texts]
        chosen: list[Units] = []
        for turn in range(max(map(len, queues), default=0)):
            # A caption's last piece stays untold, so that no caption is told in full.
            offered = [queue[turn] for queue in queues if queue and turn < max(1, len(queue) - 1)]
            for piece in offered:
                if piece not in chosen and _length([shared, *chosen, piece]) <= max_chars:
                    chosen.append(piece)
        pieces = [shared, *_shuffled(chosen, rng)]
        while len(pieces) > 1 and _length(pieces) > max_chars:
            pieces.pop()  # shuffling brought words together that need blanks
        return join([unit for piece in pieces for unit in piece]) or captions[0][:max_chars]

    def _pieces_without(self, text: Units, shared: Units) -> list[Units]:
        at = _find(text, shared) if shared else -1
        parts = [text] if at < 0 else [text[:at], text[at + len(shared) :]]
        return [piece for part in parts for piece in self.pieces(part)]

    def pieces(self, text: Units) -> list[Units]:
        """A text cut where two characters follow each other less often than their neighbors do."""
        pieces: list[list[str]] = []
        for at, unit in enumerate(text):
            if not pieces or self._parts(text, at) or len(pieces[-1]) == _longest(unit):
                pieces.append([])
            pieces[-1].append(unit)
        return [tuple(piece) for piece in pieces]

    def _parts(self, text: Units, at: int) -> bool:
        if _blankless(text[at - 1]) != _blankless(text[at]):
            return True
        if not _blankless(text[at]):
            return False
        before, here, after = (
            self._pairs[text[k - 1], text[k]] if 0 < k < len(text) else 0
            for k in (at - 1, at, at + 1)
        )
        return here < max(before, after) and here <= max(1, min(before, after))


def units(caption: str) -> Units:
    """A caption's characters, of blankless scripts, and words, of others; signs are left out."""
    found: list[str] = []
    for run in _RUN.finditer(caption):
        found.extend(run.group() if run.group("blankless") else [run.group()])
    return tuple(found)


def join(words: Sequence[str]) -> str:
    """The text of units: a blank only between two words that need one."""
    text = ""
    for word in words:
        text += (" " if text and not (_blankless(word) or _blankless(text[-1])) else "") + word
    return text


def longest_shared(texts: Sequence[Units]) -> Units:
    """The longest run of units, in characters, that all of several texts hold; else nothing.

    A single character says nothing and is not taken, nor is a run of a whole text.
    """
    if len(texts) < 2:
        return ()
    shortest = min(texts, key=len)
    runs = (
        shortest[start:stop]
        for start in range(len(shortest))
        for stop in range(start + 1, len(shortest) + 1)
    )
    fitting = (
        run
        for run in runs
        if 1 < len("".join(run)) <= _MAX_SHARED_CHARS
        and all(_find(text, run) >= 0 for text in texts)
    )
    return max(fitting, key=lambda run: len("".join(run)), default=())


def _find(text: Units, run: Units) -> int:
    last = len(text) - len(run)
    return next((at for at in range(last + 1) if text[at : at + len(run)] == run), -1)


def _length(pieces: Sequence[Units]) -> int:
    return len(join([unit for piece in pieces for unit in piece]))


def _longest(unit: str) -> int:
    return _LONGEST_PIECE[_blankless(unit)]


def _blankless(unit: str) -> bool:
    return re.match(rf"[{_BLANKLESS}]", unit) is not None


def _shuffled(pieces: Sequence[Units], rng: np.random.Generator) -> list[Units]:
    return [pieces[int(k)] for k in rng.permutation(len(pieces))]
