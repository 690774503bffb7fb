"""The queries that lost most to the champion, as pictures a reviewer can judge."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from product1m.data.items import ItemTable
from product1m.evaluation.report import thumbnail
from product1m.registry.gate import Evidence, Rivalry
from product1m.serving.thumbnails import paste_centred

NUM_RESULTS = 5
"""Results of a ranking that are shown (ours)."""
QUERY_SIDE_PX, RESULT_SIDE_PX, GAP_PX = 104, 84, 6
_WHITE, _INK, _RIGHT, _WRONG = "#ffffff", "#333333", "#1a7f37", "#cf222e"


@dataclass(frozen=True)
class Result:
    """A gallery item that a query found."""

    id: str
    label: str
    photo: bytes
    """JPEG."""
    right: bool


@dataclass(frozen=True)
class Case:
    """A query and what both models answer."""

    query: str
    title: str
    labels: Sequence[str]
    photo: bytes
    """JPEG."""
    ap: float
    """Strict AP@10 of the candidate."""
    champion_ap: float | None
    """None without a champion."""
    results: list[Result]
    champion_results: list[Result]


class Photos:
    """Photos and rows of an item table by id."""

    def __init__(self, items: ItemTable) -> None:
        self._items = items
        self._positions = {item: place for place, item in enumerate(items.rows["id"])}

    def row(self, item: str) -> pd.Series:
        """Its row."""
        return self._items.rows.iloc[self._positions[item]]

    def thumbnail(self, item: str, side_px: int) -> bytes:
        """Its photo as a small JPEG."""
        return thumbnail(self._items.photo(self._positions[item]), side_px)


def worst_cases(
    evidence: Evidence, rival: Rivalry | None, queries: ItemTable, gallery: ItemTable, count: int
) -> list[Case]:
    """The queries with the largest loss to the champion; without one those answered worst."""
    ours = pd.Series(evidence.ap)
    theirs = rival.ap.reindex(ours.index) if rival and rival.ap is not None else None
    if theirs is None:
        chosen = ours.sort_values(kind="stable").index[:count]
    else:
        loss = (theirs - ours).sort_values(ascending=False, kind="stable")
        chosen = loss[loss > 0].index[:count]
    asked, items = Photos(queries), Photos(gallery)
    return [
        _case(str(query), evidence, rival if theirs is not None else None, asked, items)
        for query in chosen
    ]


def _case(
    query: str, evidence: Evidence, rival: Rivalry | None, asked: Photos, items: Photos
) -> Case:
    row = asked.row(query)
    labels = list(row["labels"])

    def results(top: Mapping[str, list[str]]) -> list[Result]:
        return [_result(item, labels, items) for item in top.get(query, [])[:NUM_RESULTS]]

    return Case(
        query,
        str(row["caption"]),
        labels,
        asked.thumbnail(query, 2 * QUERY_SIDE_PX),
        evidence.ap[query],
        float(rival.ap[query]) if rival and rival.ap is not None else None,
        results(evidence.top),
        results(rival.top) if rival else [],
    )


def _result(item: str, labels: Sequence[str], items: Photos) -> Result:
    label = items.row(item)["labels"][0]
    return Result(item, label, items.thumbnail(item, RESULT_SIDE_PX), label in labels)


def draw_cases(cases: Sequence[Case]) -> bytes:
    """All cases on one JPEG, one a row: the query, the champion's first five, the candidate's.

    Right results have a green frame, wrong ones a red. No titles, for which a font may be missing.
    """
    row_px = QUERY_SIDE_PX + 24
    half_px = NUM_RESULTS * (RESULT_SIDE_PX + GAP_PX)
    compared = any(case.champion_ap is not None for case in cases)
    left_px = QUERY_SIDE_PX + 3 * GAP_PX
    width = left_px + half_px * (2 if compared else 1) + 3 * GAP_PX
    sheet = Image.new("RGB", (width, 24 + row_px * len(cases)), _WHITE)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    starts = [left_px, left_px + half_px + 2 * GAP_PX] if compared else [left_px]
    names = ["champion", "candidate"] if compared else ["candidate"]
    for start, name in zip(starts, names, strict=True):
        draw.text((start, 4), f"{name}, first {NUM_RESULTS}", _INK, font)
    for number, case in enumerate(cases):
        top = 24 + number * row_px
        paste_centred(sheet, case.photo, (GAP_PX, top), QUERY_SIDE_PX)
        sides = [(case.champion_ap, case.champion_results)] if compared else []
        sides.append((case.ap, case.results))
        for start, (ap, results) in zip(starts, sides, strict=True):
            caption = f"AP {ap:.2f}" if ap is not None else ""
            draw.text((start, top + RESULT_SIDE_PX + GAP_PX), caption, _INK, font)
            for place, result in enumerate(results):
                left = start + place * (RESULT_SIDE_PX + GAP_PX)
                paste_centred(sheet, result.photo, (left, top), RESULT_SIDE_PX)
                colour = _RIGHT if result.right else _WRONG
                box = (left - 2, top - 2, left + RESULT_SIDE_PX + 1, top + RESULT_SIDE_PX + 1)
                draw.rectangle(box, outline=colour, width=3)
        draw.text((GAP_PX, top + QUERY_SIDE_PX), case.query[:20], _INK, font)
    written = io.BytesIO()
    sheet.save(written, "JPEG", quality=82)
    return written.getvalue()
