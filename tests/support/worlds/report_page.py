"""The content of a small report, and an HTML page read back."""

from html.parser import HTMLParser

import cv2
import numpy as np
import pandas as pd

from product1m.evaluation.detection_quality import DetectionQuality
from product1m.evaluation.fusion import Surface
from product1m.evaluation.report import (
    AnswerCard,
    BoxCard,
    QueryCard,
    ReportContent,
    thumbnail,
)
from product1m.evaluation.report.content import Tag
from product1m.evaluation.results import BlockGain
from product1m.evaluation.statistics import METRICS, Interval

SLICE_COLUMNS = ["by", "slice", "num_queries", "mean", "low", "high"]
SLICE_COLUMNS += ["lead_mean", "lead_low", "lead_high", "definition"]
TWO_INTERVALS = Interval(0.5, 0.375, 0.625), Interval(0.125, -0.0625, 0.25)
MEANS = {"shipped": 0.421, "image": 0.312, "text_whole_photo": 0.25, "joint": 0.44}
MEANS |= {"image_text": 0.409, "random": 0.011, "oracle": 0.987}
DIFFERENCES = {
    "image": Interval(0.109, 0.05, 0.16),
    "text_whole_photo": Interval(0.171, 0.1, 0.2),
    "joint": Interval(-0.019, -0.03, -0.01),
    "image_text": Interval(0.012, -0.01, 0.03),
    "random": Interval(0.41, 0.4, 0.42),
    "oracle": Interval(-0.566, -0.6, -0.5),
}
SLICES = [
    ("products", "3", 119, 0.4, 0.3, 0.5, 0.02, -0.04, 0.08, "as labeled."),
    ("products", "4+", 31, 0.4, 0.3, 0.5, 0.02, -0.04, 0.08, "as labeled."),
    ("brand", "倩碧", 150, 0.4, 0.3, 0.5, 0.1, 0.05, 0.2, "first word."),
]


def noise(seed: int, side_px: int = 300) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return thumbnail(cv2.resize(coarse, (side_px * 4 // 3, side_px)), side_px)


def card(number: int, tag: Tag, num_answers: int = 4) -> QueryCard:
    answers = [
        AnswerCard(
            f"g{number}{rank}",
            f"倩碧 面霜 {rank}",
            noise(rank, 100),
            0.9 - rank / 10,
            rank < 2,
            elsewhere=rank == 2,
        )
        for rank in range(num_answers)
    ]
    return QueryCard(
        query_id=f"q{number}",
        title=f"正品套装 {number}",
        labels=("倩碧 面霜 0", "倩碧 面霜 0", "倩碧 面霜 1"),
        photo=noise(number),
        size_px=(800, 600),
        boxes=[
            BoxCard((80.0, 60.0, 400.0, 300.0), 0.97, answers),
            BoxCard((410.0, 0.0, 800.0, 600.0), 0.61, answers[:2]),
        ],
        ap=0.5,
        hits=[True, False, True],
        tag=tag,
        slices={"products": "3" if number < 3 else "4+", "brand": "倩碧"},
    )


def example_content() -> ReportContent:
    """A report with every section, two rankings ahead and one behind."""
    return ReportContent(
        title="Sample: evaluation",
        facts={"test queries": "150"},
        shipped="shipped",
        scores={
            name: {"official": _scores(mean + 0.005), "strict": _scores(mean)}
            for name, mean in MEANS.items()
        },
        differences=DIFFERENCES,
        curves=_curves(),
        slices=pd.DataFrame(SLICES, columns=SLICE_COLUMNS),
        fusion={"joint": 0.0, "image": 0.75},
        queries=[card(1, "best"), card(2, "worst"), card(3, "worst"), card(4, "random")],
        trials=pd.DataFrame({"joint": [0, 1], "image": [1, 0], "dev_map": [0.3, 0.2]}),
        surface=Surface(
            "joint", "image", np.array([[np.nan, 0.2], [0.3, 0.25]]), np.array([0.0, 1.0])
        ),
        gains={
            "without": [BlockGain("image", ("joint",), *TWO_INTERVALS)],
            "adding": [
                BlockGain("image", ("image",), *TWO_INTERVALS),
                BlockGain("joint", ("image", "joint"), *TWO_INTERVALS),
            ],
        },
        detection=DetectionQuality(
            pd.DataFrame([[3, 1], [0, 146]], index=[1, 2], columns=[1, 2]),
            {
                "error": Interval(-0.25, -0.375, -0.125),
                "recall": Interval(0.75, 0.625, 0.875),
                "precision": Interval(0.9375, 0.9, 0.95),
                "products_found@1": Interval(0.8125, 0.75, 0.85),
            },
        ),
        latency=pd.DataFrame({"p50": [1.25, 9.5], "p95": [2.5, 19.25]}, index=["search", "total"]),
        notes=["3 of 150 test queries ask for a label that no gallery item has."],
    )


def _scores(mean: float) -> dict[str, dict[str, Interval]]:
    interval = Interval(mean, mean - 0.02, mean + 0.03)
    return {n: dict.fromkeys(METRICS, interval) for n in ("10", "50", "100")}


def _curves() -> pd.DataFrame:
    """Precision and recall of every ranking at three depths, with their bounds."""
    return pd.DataFrame(
        [
            {"method": name, "depth": depth}
            | {
                f"{column}{end}": value * factor
                for column, value in (("precision", mean / depth), ("recall", mean))
                for end, factor in (("", 1), ("_low", 0.9), ("_high", 1.1))
            }
            for name, mean in MEANS.items()
            for depth in (1, 10, 100)
        ]
    )


class Document(HTMLParser):
    """Start tags with their attributes, and the text of every element by tag."""

    VOID = ("meta", "link", "img", "rect", "path", "wbr", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self.VOID:
            self._open.append((tag, []))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        for _, parts in self._open:
            parts.append(data)

    def handle_endtag(self, tag: str) -> None:
        opened, parts = self._open.pop()
        assert opened == tag, f"<{opened}> closed by </{tag}>"
        self.texts.append((tag, " ".join("".join(parts).split())))

    def text_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]
