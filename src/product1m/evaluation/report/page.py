"""The report as one HTML file, which loads nothing from elsewhere."""

import base64
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from markupsafe import Markup, escape

from product1m.data.photos import decode_photo
from product1m.errors import RetrievalError
from product1m.evaluation.detection_quality import (
    BOX_PRECISION,
    BOX_RECALL,
    FIGURES,
    MANY,
    PRODUCTS_FOUND,
)
from product1m.evaluation.latency import STAGES
from product1m.evaluation.match_figures import FIGURES as MATCH_FIGURES
from product1m.evaluation.methods import (
    BASELINES,
    ENDS_OF_SCALE,
    between_the_ends,
    describe,
    grouped,
    rivals,
)
from product1m.evaluation.metrics import DEFINITIONS
from product1m.evaluation.report.cards import AnswerCard, thumbnail
from product1m.evaluation.report.content import TAGS, QueryCard, ReportContent
from product1m.evaluation.report.html import html_templates
from product1m.evaluation.report.plots import (
    FUSION,
    PRECISION,
    RECALL,
    RELIABILITY,
    SURFACE,
    write_plots,
)
from product1m.evaluation.statistics import MAIN_DEPTH, MAIN_METRIC, METRICS, Interval

logger = logging.getLogger(__name__)

MAX_REPORT_BYTES = 10 * 1000 * 1000
"""Reports are mailed and opened on phones, so photos are reduced until this size is met (ours)."""
_SHRUNK_SIDES_PX = (80, 56, 40)


def write_report(content: ReportContent, path: Path) -> int:
    """Write the page, and the plots beside it; return its size in bytes, below `MAX_REPORT_BYTES`.

    Raises RetrievalError if it is too large even with the smallest photos.
    """
    pngs = {png.name: png.read_bytes() for png in write_plots(content, path.parent)}
    page = _render(content, pngs).encode()
    for side_px in _SHRUNK_SIDES_PX:
        if len(page) < MAX_REPORT_BYTES:
            break
        logger.info(
            "%s: %.1f MB is too large, so photos are reduced to %d px",
            path,
            len(page) / 1e6,
            side_px,
        )
        smaller = replace(content, queries=_shrunk(content.queries, side_px))
        page = _render(smaller, pngs).encode()
    if len(page) >= MAX_REPORT_BYTES:
        raise RetrievalError(
            f"{path}: the report shows {len(content.queries)} queries and has {len(page)} bytes, "
            f"more than {MAX_REPORT_BYTES}; lower evaluation.num_report_queries"
        )
    path.write_bytes(page)
    return len(page)


def _render(content: ReportContent, pngs: Mapping[str, bytes]) -> str:
    environment = html_templates()
    environment.filters |= {"describe": describe, "breakable": _breakable}
    environment.filters |= {"grouped": grouped}
    script = _template_text("report.js")
    return environment.get_template("report.html").render(
        content=content,
        style=Markup(_template_text("report.css")),  # noqa: S704 - a file of this package
        script=Markup(script),  # noqa: S704 - a file of this package
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        summary=_conclude(content),
        forest=_Forest.around(content.differences),
        definitions=DEFINITIONS,
        metrics=METRICS,
        depths=_depths(content),
        tags=[(tag, sum(card.tag == tag for card in content.queries)) for tag in TAGS],
        shown_slices=_shown_slices(content),
        to_beat=[name for name in BASELINES if name in content.differences],
        detection_figures=FIGURES,
        many=MANY,
        products_found=PRODUCTS_FOUND,
        box_precision=BOX_PRECISION,
        box_recall=BOX_RECALL,
        match_figures=MATCH_FIGURES,
        match_plots=_match_plots(pngs),
        stages=STAGES,
        curves=_curves(pngs),
        fusion_plots=_fusion_plots(content, pngs),
        percent=f"{content.confidence:.0%}".replace("%", " %"),
    )


@dataclass(frozen=True)
class Conclusion:
    """The shipped ranking compared with every other by paired intervals."""

    score: Interval
    passed: bool
    """Whether it is ahead of every baseline that was measured."""
    sentence: str
    ahead: list[str]
    behind: list[str]
    undecided: list[str]


def _conclude(content: ReportContent) -> Conclusion:
    leads = rivals(content.differences)
    baselines = {name: leads[name] for name in BASELINES if name in leads}
    not_beaten = [name for name, lead in baselines.items() if not lead.above_zero]
    return Conclusion(
        score=content.scores[content.shipped]["strict"][str(MAIN_DEPTH)]["mAP"],
        passed=not not_beaten,
        sentence=_sentence(baselines, not_beaten),
        ahead=[name for name, interval in leads.items() if interval.low > 0],
        behind=[name for name, interval in leads.items() if interval.high < 0],
        undecided=[name for name, interval in leads.items() if interval.low <= 0 <= interval.high],
    )


def _sentence(baselines: Mapping[str, Interval], not_beaten: Sequence[str]) -> str:
    """The summary in one sentence, with the closest baseline."""
    if not baselines:
        return "No baseline was measured."
    named = list(not_beaten) or [min(baselines, key=lambda name: baselines[name].low)]
    leads = ", ".join(f"{name} by {baselines[name].signed}" for name in named)
    if not_beaten:
        return f"NOT clearly ahead of every baseline: {leads}."
    if len(baselines) == 1:
        return f"Ahead of the only measured baseline: {leads}."
    return f"Ahead of all {len(baselines)} baselines; the closest is {leads}."


def _shown_slices(content: ReportContent) -> dict[str, list[tuple[str, int]]]:
    """The slices by way of slicing, with the number of shown queries in each."""
    shown: dict[str, list[tuple[str, int]]] = {}
    for by, group in content.slices.groupby("by", sort=False):
        names = [str(name) for name in group["slice"]]
        counts = [sum(c.slices.get(str(by)) == name for c in content.queries) for name in names]
        pairs = [pair for pair in zip(names, counts, strict=True) if pair[1]]
        if pairs:
            shown[str(by)] = pairs
    return shown


@dataclass(frozen=True)
class _Forest:
    """A common scale for the intervals: 0 to 100 across a bar."""

    low: float
    high: float
    ends: tuple[str, ...] = ENDS_OF_SCALE

    @classmethod
    def around(cls, differences: Mapping[str, Interval]) -> "_Forest":
        shown = between_the_ends(differences).values()
        low = min([0.0, *(interval.low for interval in shown)])
        high = max([0.0, *(interval.high for interval in shown)])
        margin = 0.05 * max(high - low, 1e-6)
        return cls(low - margin, high + margin)

    def at(self, value: float) -> str:
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}"


@dataclass(frozen=True)
class _Plot:
    title: str
    uri: str
    alt: str


def _depths(content: ReportContent) -> list[str]:
    first = next(iter(content.scores[content.shipped].values()))
    return sorted(first, key=int)


def _curves(pngs: Mapping[str, bytes]) -> list[_Plot]:
    return [
        _Plot(
            title,
            _png_uri(pngs[name]),
            f"{title}, one line per method; the table of metrics has the numbers.",
        )
        for name, title in (
            (PRECISION, "Precision by depth, strict"),
            (RECALL, "Average recall (AR) by depth, strict"),
        )
    ]


def _fusion_plots(content: ReportContent, pngs: Mapping[str, bytes]) -> list[_Plot]:
    plots = []
    if FUSION in pngs:
        title = "The best score on the dev queries by block weight"
        alt = f"Best dev {MAIN_METRIC} by the weight of each block."
        plots.append(_Plot(title, _png_uri(pngs[FUSION]), alt))
    if content.surface is not None:
        names = f"{content.surface.x_block} and {content.surface.y_block}"
        alt = (
            f"Heat map over the weights of {names}, the other blocks as chosen; "
            "a cross marks the choice."
        )
        title = f"Dev {MAIN_METRIC} by the weights of {names}"
        plots.append(_Plot(title, _png_uri(pngs[SURFACE]), alt))
    return plots


def _match_plots(pngs: Mapping[str, bytes]) -> list[_Plot]:
    if RELIABILITY not in pngs:
        return []
    title = "Reliability of match scores"
    alt = "Share of right first answers by match score, beside the diagonal of perfect scores."
    return [_Plot(title, _png_uri(pngs[RELIABILITY]), alt)]


def _png_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _breakable(name: str) -> Markup:
    """A method's name that may break after an underscore."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))


def _shrunk(queries: Sequence[QueryCard], side_px: int) -> list[QueryCard]:
    def smaller(encoded: bytes, name: str, times: int = 1) -> bytes:
        return thumbnail(decode_photo(encoded, name), side_px * times, quality=65)

    def shrink(answer: AnswerCard) -> AnswerCard:
        return replace(answer, photo=smaller(answer.photo, answer.id) if answer.photo else None)

    return [
        replace(
            card,
            photo=smaller(card.photo, card.query_id, times=3),
            boxes=[replace(box, answers=[shrink(a) for a in box.answers]) for box in card.boxes],
        )
        for card in queries
    ]


def _template_text(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text("utf-8")
