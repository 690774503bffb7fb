"""Titles of scenes: some pieces of each source's caption, but never a whole caption."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

_BLANKLESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Letters of scripts that are written without spaces: Han, kana, Hangul."""
_RUN = re.compile(
    rf"(?P<blankless>[{_BLANKLESS}]+)|(?:[^\W{_BLANKLESS}]|(?<=\w)[.'’&%+-](?=\w))+%?"
)
_LONGEST_PIECE = {True: 6, False: 2}
"""Longest piece in units: characters of scripts without spaces (True), words of others (ours)."""
_MAX_SHARED_CHARS = 16
"""Longest common beginning of a title, such as a brand's name (ours)."""

Units = tuple[str, ...]


class TitleComposer:
    """Splits captions into words; without spaces, by how often characters stand side by side."""

    def __init__(self, captions: Iterable[str]) -> None:
        self._pairs: Counter[tuple[str, str]] = Counter()
        for caption in captions:
            self._pairs.update(pairwise(units(caption)))

    def compose(self, captions: Sequence[str], max_chars: int, rng: np.random.Generator) -> str:
        """A title of at most `max_chars` with parts of every caption.

        The part that all captions share (a brand's name) comes first. Shuffled pieces of each
        caption follow in turn: a few Chinese characters, or up to two words of other scripts.
        """
        texts = [units(caption) for caption in captions]
        shared = longest_shared(list(dict.fromkeys(texts)))
        queues = [_shuffled(self._pieces_without(text, shared), rng) for text in texts]
        chosen: list[Units] = []
        for turn in range(max(map(len, queues), default=0)):
            # A caption's last piece is left out, so that no caption is complete.
            offered = [queue[turn] for queue in queues if queue and turn < max(1, len(queue) - 1)]
            for piece in offered:
                if piece not in chosen and _length([shared, *chosen, piece]) <= max_chars:
                    chosen.append(piece)
        pieces = [shared, *_shuffled(chosen, rng)]
        while len(pieces) > 1 and _length(pieces) > max_chars:
            pieces.pop()  # the new order needs more spaces between words
        return join([unit for piece in pieces for unit in piece]) or captions[0][:max_chars]

    def _pieces_without(self, text: Units, shared: Units) -> list[Units]:
        index = _find(text, shared) if shared else -1
        parts = [text] if index < 0 else [text[:index], text[index + len(shared) :]]
        return [piece for part in parts for piece in self.pieces(part)]

    def pieces(self, text: Units) -> list[Units]:
        """A text, cut where two characters are adjacent less often than the pairs beside them."""
        pieces: list[list[str]] = []
        for index, unit in enumerate(text):
            if not pieces or self._ends_word(text, index) or len(pieces[-1]) == _longest(unit):
                pieces.append([])
            pieces[-1].append(unit)
        return [tuple(piece) for piece in pieces]

    def _ends_word(self, text: Units, index: int) -> bool:
        if _blankless(text[index - 1]) != _blankless(text[index]):
            return True
        if not _blankless(text[index]):
            return False
        before, here, after = (
            self._pairs[text[k - 1], text[k]] if 0 < k < len(text) else 0
            for k in (index - 1, index, index + 1)
        )
        return here < max(before, after) and here <= max(1, min(before, after))


def units(caption: str) -> Units:
    """A caption's characters (scripts without spaces) or words (others), without punctuation."""
    parts: list[str] = []
    for run in _RUN.finditer(caption):
        parts.extend(run.group() if run.group("blankless") else [run.group()])
    return tuple(parts)


def join(words: Sequence[str]) -> str:
    """The text of units, with spaces only between words that need them."""
    text = ""
    for word in words:
        text += (" " if text and not (_blankless(word) or _blankless(text[-1])) else "") + word
    return text


def longest_shared(texts: Sequence[Units]) -> Units:
    """The longest run of units, in characters, that all texts contain; empty if there is none.

    A run has at least two characters.
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
    return next((index for index in range(last + 1) if text[index : index + len(run)] == run), -1)


def _length(pieces: Sequence[Units]) -> int:
    return len(join([unit for piece in pieces for unit in piece]))


def _longest(unit: str) -> int:
    return _LONGEST_PIECE[_blankless(unit)]


def _blankless(unit: str) -> bool:
    return re.match(rf"[{_BLANKLESS}]", unit) is not None


def _shuffled(pieces: Sequence[Units], rng: np.random.Generator) -> list[Units]:
    return [pieces[int(k)] for k in rng.permutation(len(pieces))]
