"""Titles of scenes: pieces of the sources' captions, so that each product shows but none wholly."""

import re
from collections.abc import Sequence

import numpy as np

_BLANKLESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
"""Letters of scripts that are written without blanks: Han, kana, Hangul."""
_RUN = re.compile(
    rf"(?P<blankless>[{_BLANKLESS}]+)|(?:[^\W{_BLANKLESS}]|(?<=\w)[.'’&%+-](?=\w))+%?"
)
_LONGEST_PIECE = {True: 4, False: 2}
"""Units of a piece, of blankless scripts (characters) and of others (words) (ours)."""
_MAX_SHARED_CHARS = 16
"""Longest common run that opens a title, such as a brand's name (ours)."""

Units = tuple[str, ...]


def compose_title(captions: Sequence[str], max_chars: int, rng: np.random.Generator) -> str:
    """A title of at most `max_chars` that tells of every caption and repeats none.

    What all captions share (a brand's name) comes first, then shuffled pieces of each caption in
    its turn: up to four characters of Chinese, up to two words of other scripts.
    """
    texts = [units(caption) for caption in captions]
    shared = longest_shared(list(dict.fromkeys(texts)))
    queues = [_shuffled(_pieces(_without(text, shared), rng), rng) for text in texts]
    chosen: list[Units] = []
    for turn in range(max(map(len, queues), default=0)):
        # A caption's last piece stays untold, so that no caption is told in full.
        offered = [queue[turn] for queue in queues if turn < max(1, len(queue) - 1) and queue]
        for piece in offered:
            words = (*shared, *(unit for known in [*chosen, piece] for unit in known))
            if piece not in chosen and len(join(words)) <= max_chars:
                chosen.append(piece)
    words = (*shared, *(unit for piece in _shuffled(chosen, rng) for unit in piece))
    return join(words) or captions[0][:max_chars]


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


def _without(text: Units, run: Units) -> list[Units]:
    at = _find(text, run) if run else -1
    return [text] if at < 0 else [text[:at], text[at + len(run) :]]


def _pieces(texts: Sequence[Units], rng: np.random.Generator) -> list[Units]:
    pieces: list[Units] = []
    for text in texts:
        start = 0
        while start < len(text):
            kind = _blankless(text[start])
            wanted = int(rng.integers(max(1, _LONGEST_PIECE[kind] // 2), _LONGEST_PIECE[kind] + 1))
            stop = start + 1
            while stop < min(len(text), start + wanted) and _blankless(text[stop]) == kind:
                stop += 1
            pieces.append(text[start:stop])
            start = stop
    return pieces


def _blankless(unit: str) -> bool:
    return re.match(rf"[{_BLANKLESS}]", unit) is not None


def _shuffled(pieces: Sequence[Units], rng: np.random.Generator) -> list[Units]:
    return [pieces[int(k)] for k in rng.permutation(len(pieces))]
