"""The queries with the largest loss to the champion, as pictures for a reviewer."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from product1m.data.items import ItemTable
from product1m.evaluation.report import AnswerCard, ItemPhotos
from product1m.registry.evidence import Evidence
from product1m.registry.gate import Rivalry
from product1m.serving.thumbnails import paste_centered

NUM_ANSWERS = 5
"""Answers of a ranking that are shown (ours)."""
QUERY_SIDE_PX, ANSWER_SIDE_PX, GAP_PX = 104, 84, 6
_WHITE, _INK, _RIGHT, _WRONG = "#ffffff", "#333333", "#1a7f37", "#cf222e"


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
    answers: list[AnswerCard]
    champion_answers: list[AnswerCard]


def worst_cases(
    evidence: Evidence, rival: Rivalry | None, queries: ItemTable, gallery: ItemTable, count: int
) -> list[Case]:
    """The queries with the largest loss to the champion; without one, the worst answered."""
    ours = pd.Series(evidence.ap)
    theirs = rival.ap.reindex(ours.index) if rival and rival.ap is not None else None
    if theirs is None:
        chosen = ours.sort_values(kind="stable").index[:count]
    else:
        loss = (theirs - ours).sort_values(ascending=False, kind="stable")
        chosen = loss[loss > 0].index[:count]
    photos, items = ItemPhotos(queries), ItemPhotos(gallery)
    return [
        _case(str(query), evidence, rival if theirs is not None else None, photos, items)
        for query in chosen
    ]


def _case(
    query: str, evidence: Evidence, rival: Rivalry | None, photos: ItemPhotos, items: ItemPhotos
) -> Case:
    row = photos.row(query)
    labels = list(row["labels"])

    def answers(top: Mapping[str, list[str]]) -> list[AnswerCard]:
        return [_answer(item, labels, items) for item in top.get(query, [])[:NUM_ANSWERS]]

    return Case(
        query,
        str(row["caption"]),
        labels,
        photos.thumbnail(query, 2 * QUERY_SIDE_PX),
        evidence.ap[query],
        float(rival.ap[query]) if rival and rival.ap is not None else None,
        answers(evidence.top),
        answers(rival.top) if rival else [],
    )


def _answer(item: str, labels: Sequence[str], items: ItemPhotos) -> AnswerCard:
    label = items.row(item)["labels"][0]
    photo = items.thumbnail(item, ANSWER_SIDE_PX)
    return AnswerCard(item, label, photo, right=label in labels)


def draw_cases(cases: Sequence[Case]) -> bytes:
    """All cases on one JPEG, one per row: query, answers of the champion, of the candidate.

    Right answers have a green frame, wrong ones a red frame. There are no titles: a font for
    them may be missing.
    """
    row_px = QUERY_SIDE_PX + 24
    half_px = NUM_ANSWERS * (ANSWER_SIDE_PX + GAP_PX)
    compared = any(case.champion_ap is not None for case in cases)
    left_px = QUERY_SIDE_PX + 3 * GAP_PX
    width = left_px + half_px * (2 if compared else 1) + 3 * GAP_PX
    sheet = Image.new("RGB", (width, 24 + row_px * len(cases)), _WHITE)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    starts = [left_px, left_px + half_px + 2 * GAP_PX] if compared else [left_px]
    names = ["champion", "candidate"] if compared else ["candidate"]
    for start, name in zip(starts, names, strict=True):
        draw.text((start, 4), f"{name}, first {NUM_ANSWERS}", _INK, font)
    for number, case in enumerate(cases):
        top = 24 + number * row_px
        paste_centered(sheet, case.photo, (GAP_PX, top), QUERY_SIDE_PX)
        sides = [(case.champion_ap, case.champion_answers)] if compared else []
        sides.append((case.ap, case.answers))
        for start, (ap, answers) in zip(starts, sides, strict=True):
            caption = f"AP {ap:.2f}" if ap is not None else ""
            draw.text((start, top + ANSWER_SIDE_PX + GAP_PX), caption, _INK, font)
            for place, answer in enumerate(answers):
                left = start + place * (ANSWER_SIDE_PX + GAP_PX)
                if answer.photo:
                    paste_centered(sheet, answer.photo, (left, top), ANSWER_SIDE_PX)
                color = _RIGHT if answer.right else _WRONG
                box = (left - 2, top - 2, left + ANSWER_SIDE_PX + 1, top + ANSWER_SIDE_PX + 1)
                draw.rectangle(box, outline=color, width=3)
        draw.text((GAP_PX, top + QUERY_SIDE_PX), case.query[:20], _INK, font)
    written = io.BytesIO()
    sheet.save(written, "JPEG", quality=82)
    return written.getvalue()
