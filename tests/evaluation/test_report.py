"""The report as a reader meets it: one file, safe, complete, usable by keyboard and on a phone."""

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pandas as pd
import pytest

from product1m.data.photos import decode_photo
from product1m.errors import RetrievalError
from product1m.evaluation.detection_quality import DetectionQuality
from product1m.evaluation.fusion import Surface
from product1m.evaluation.methods import GROUPS, describe, group_of
from product1m.evaluation.report import (
    InstanceCard,
    QueryCard,
    ReportContent,
    ResultCard,
    choose_queries,
    page,
    thumbnail,
    write_plots,
    write_report,
)
from product1m.evaluation.report.content import Tag
from product1m.evaluation.results import BlockGain
from product1m.evaluation.statistics import Interval
from tests.support.servers.browser import CHROMIUM, Page, browser

HOSTILE = "<script>alert('标题')</script> & \"quotes\" </article><img src=https://evil.example/x>"
SLICE_COLUMNS = ["by", "slice", "num_queries", "mean", "low", "high"]
SLICE_COLUMNS += ["lead_mean", "lead_low", "lead_high", "definition"]
TWO_INTERVALS = Interval(0.5, 0.375, 0.625), Interval(0.125, -0.0625, 0.25)
MEANS = {"shipped": 0.421, "image": 0.312, "text_whole_photo": 0.25, "joint": 0.44}
MEANS |= {"image_text": 0.409, "random": 0.011, "oracle": 0.987}


def noise(seed: int, side_px: int = 300) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return thumbnail(cv2.resize(coarse, (side_px * 4 // 3, side_px)), side_px)


def card(number: int, tag: Tag, num_results: int = 4) -> QueryCard:
    results = [
        ResultCard(
            f"g{number}{rank}", f"倩碧 面霜 {rank}", noise(rank, 100), 0.9 - rank / 10, rank < 2
        )
        for rank in range(num_results)
    ]
    return QueryCard(
        query_id=f"q{number}",
        title=f"正品套装 {number}",
        labels=("倩碧 面霜 0", "倩碧 面霜 0", "倩碧 面霜 1"),
        photo=noise(number),
        size_px=(800, 600),
        instances=[
            InstanceCard((80.0, 60.0, 400.0, 300.0), 0.97, results),
            InstanceCard((410.0, 0.0, 800.0, 600.0), 0.61, results[:2]),
        ],
        ap=0.5,
        hits=[True, False, True],
        tag=tag,
        slices={"products": "3" if number < 3 else "4+", "brand": "倩碧"},
    )


@pytest.fixture(scope="module")
def content() -> ReportContent:
    def scores(mean: float) -> dict[str, dict[str, Interval]]:
        interval = Interval(mean, mean - 0.02, mean + 0.03)
        return {n: dict.fromkeys(("mAP", "mAR", "Prec"), interval) for n in ("10", "50", "100")}

    depths = (1, 10, 100)
    return ReportContent(
        title="Sample: evaluation",
        facts={"test queries": "150"},
        shipped="shipped",
        scores={
            name: {"official": scores(mean + 0.005), "strict": scores(mean)}
            for name, mean in MEANS.items()
        },
        differences={
            "image": Interval(0.109, 0.05, 0.16),
            "text_whole_photo": Interval(0.171, 0.1, 0.2),
            "joint": Interval(-0.019, -0.03, -0.01),
            "image_text": Interval(0.012, -0.01, 0.03),
            "random": Interval(0.41, 0.4, 0.42),
            "oracle": Interval(-0.566, -0.6, -0.5),
        },
        curves=pd.DataFrame(
            [
                {"method": name, "depth": depth}
                | {
                    f"{column}{end}": value * factor
                    for column, value in (("precision", mean / depth), ("recall", mean))
                    for end, factor in (("", 1), ("_low", 0.9), ("_high", 1.1))
                }
                for name, mean in MEANS.items()
                for depth in depths
            ]
        ),
        slices=pd.DataFrame(
            [
                ("products", "3", 119, 0.4, 0.3, 0.5, 0.02, -0.04, 0.08, "as labelled."),
                ("products", "4+", 31, 0.4, 0.3, 0.5, 0.02, -0.04, 0.08, "as labelled."),
                ("brand", "倩碧", 150, 0.4, 0.3, 0.5, 0.1, 0.05, 0.2, "first word."),
            ],
            columns=SLICE_COLUMNS,
        ),
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
            {"error": Interval(-0.25, -0.375, -0.125), "recall": Interval(0.75, 0.625, 0.875)},
        ),
        latency=pd.DataFrame({"p50": [1.25, 9.5], "p95": [2.5, 19.25]}, index=["search", "total"]),
        notes=["3 of 150 test queries ask for a label that no gallery item has."],
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


@pytest.fixture(scope="module")
def report(content: ReportContent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(content, path)
    return path


@pytest.fixture(scope="module")
def document(report: Path) -> Document:
    return Document(report.read_text("utf-8"))


def written(content: ReportContent, tmp_path: Path) -> Document:
    write_report(content, tmp_path / "report.html")
    return Document((tmp_path / "report.html").read_text("utf-8"))


def test_nothing_in_the_page_points_out_of_it(document: Document) -> None:
    addresses = [
        attributes[name]
        for _, attributes in document.tags
        for name in ("src", "href", "srcset", "action", "data")
        if name in attributes
    ]
    assert len(addresses) > 20
    assert all(address.startswith(("data:", "#")) for address in addresses)
    targets = {attributes.get("id") for _, attributes in document.tags}
    assert {address[1:] for address in addresses if address.startswith("#")} <= targets
    style = document.text_of("style")[0]
    assert "url(" not in style
    assert "@import" not in style
    policies = [a["content"] for _, a in document.tags if "http-equiv" in a]
    assert policies[0].startswith("default-src 'none'; img-src data:;")


def test_photos_are_inlined_as_jpegs_that_decode(document: Document) -> None:
    sources = [attributes["src"] for tag, attributes in document.tags if tag == "img"]
    photos = [source for source in sources if source.startswith("data:image/jpeg;base64,")]
    assert len(photos) == 4 * (1 + 4 + 2)
    encoded = base64.b64decode(photos[1].partition(",")[2])
    assert max(decode_photo(encoded, "first result").shape) == 100


def test_a_hostile_title_is_text_wherever_it_stands(content: ReportContent, tmp_path: Path) -> None:
    hostile = replace(
        content.queries[0],
        title=HOSTILE,
        labels=(HOSTILE,),
        query_id='q"><script>',
        instances=[
            InstanceCard(
                (0.0, 0.0, 9.0, 9.0), 0.5, [ResultCard(HOSTILE, HOSTILE, noise(0), 0.5, True)]
            )
        ],
    )
    changed = replace(
        content, title=HOSTILE, queries=[hostile], notes=[HOSTILE], facts={HOSTILE: HOSTILE}
    )
    document = written(changed, tmp_path)
    assert HOSTILE in document.text_of("h3")
    assert document.text_of("h1") == [HOSTILE]
    assert document.text_of("title") == [HOSTILE]
    assert len(document.text_of("script")) == 1
    assert "alert" not in document.text_of("script")[0]
    assert not any("evil" in value for _, a in document.tags for value in a.values())


def test_the_verdict_stands_first_and_names_what_is_not_beaten(document: Document) -> None:
    verdict = "✗ NOT ahead of every baseline, for certain: image_text by +0.012 [-0.010, +0.030]."
    assert document.text_of("p")[0] == verdict
    assert document.text_of("h2")[0] == "Verdict"


def test_the_verdict_of_a_ranking_ahead_of_all_names_the_closest(
    content: ReportContent, tmp_path: Path
) -> None:
    leads = dict(content.differences) | {"image_text": Interval(0.112, 0.07, 0.13)}
    document = written(replace(content, differences=leads), tmp_path)
    # The lead whose interval begins lowest, not the smallest mean.
    verdict = "✓ Ahead of all 2 baselines; the closest is image by +0.109 [+0.050, +0.160]."
    assert document.text_of("p")[0] == verdict


def test_the_verdict_sorts_rivals_by_what_the_intervals_show(document: Document) -> None:
    assert "0.421" in document.text_of("p")
    items = document.text_of("li")
    assert "✓ ahead of image, text_whole_photo" in items
    assert "✗ behind joint" in items
    assert "? not decided against image_text" in items
    assert any("95 % interval 0.401–0.451" in text for text in document.text_of("p"))
    assert any("3 of 150 test queries" in text for text in document.text_of("p"))


def test_every_method_stands_in_both_definitions_with_its_intervals(document: Document) -> None:
    assert "Definition: strict, test queries" in document.text_of("caption")
    assert "Definition: official, test queries" in document.text_of("caption")
    cells = document.text_of("td")
    for mean in MEANS.values():
        for shown in (mean, mean + 0.005):
            cell = f"{shown:.3f}{shown - 0.02:.3f}–{shown + 0.03:.3f}"
            assert cells.count(cell) >= 9
    assert "+0.109+0.050 … +0.160" in cells


def test_results_are_marked_in_words_not_by_colour_alone(document: Document) -> None:
    marks = document.text_of("b")
    assert marks.count("✓ right") == 4 * (2 + 2)
    assert marks.count("✗ wrong") == 4 * 2
    spoken = [
        a["aria-label"] for tag, a in document.tags if a.get("role") == "img" and tag == "span"
    ]
    assert spoken == ["right", "wrong", "right"] * 4


def test_instances_are_drawn_where_they_are_and_numbered(document: Document) -> None:
    boxes = [a for tag, a in document.tags if tag == "rect" and a["class"] == "box"]
    first = {name: float(boxes[0][name]) for name in ("x", "y", "width", "height")}
    assert first == {"x": 80.0, "y": 60.0, "width": 320.0, "height": 240.0}
    numbers = [a["style"] for tag, a in document.tags if a.get("class") == "number"]
    assert numbers[:2] == ["left:10.00%;top:10.00%", "left:51.25%;top:0.00%"]
    assert document.text_of("h4")[:2] == [
        "Instance 1 objectness 0.97",
        "Instance 2 objectness 0.61",
    ]


def test_slices_fusion_and_facts_are_there(document: Document) -> None:
    headings = document.text_of("th")
    assert {"4+", "倩碧"} <= set(headings)
    assert "150" in document.text_of("dd")
    assert "0.75" in document.text_of("td")
    assert "What each weight can reach on the dev queries" in document.text_of("figcaption")
    assert f"image{describe('image')}" in headings


def test_slices_carry_their_definition_and_the_lead_over_the_rest(document: Document) -> None:
    captions = document.text_of("caption")
    assert "By products as labelled." in captions
    assert "By brand first word." in captions
    assert document.text_of("td").count("+0.020-0.040 … +0.080") == 2


def test_gains_detection_and_latency_are_tables_of_their_own(document: Document) -> None:
    headings, cells = document.text_of("th"), document.text_of("td")
    assert {"imagejoint", "imageimage", "jointimage + joint"} <= set(headings)
    assert cells.count("0.5000.375–0.625") == cells.count("+0.125-0.062 … +0.250") == 3
    assert "-0.250-0.375 … -0.125" in cells
    assert cells[cells.index("3") : cells.index("3") + 4] == ["3", "1", "·", "146"]
    assert {"1.25", "2.50", "9.50", "19.25"} <= set(cells)


def test_methods_stand_in_groups() -> None:
    groups = {
        "shipped": "What ships",
        "joint": "CAPTURE alone",
        "image_text": "Without CAPTURE",
        "image_whole_photo": "Whole photo as one box",
        "merge_round_robin": "Other ways to merge the boxes' rankings",
        "oracle_boxes": "What pooling and detection cost",
        "oracle": "Ends of the scale",
    }
    assert {method: group_of(method) for method in groups} == groups
    assert list(groups.values()) == list(GROUPS)


def test_strips_run_from_low_to_high_on_a_common_scale(report: Path) -> None:
    html = report.read_text("utf-8")
    drawn = re.findall(r'<svg class="strip".*?</svg>', html, re.DOTALL)
    # Rivals' ends: -0.03 to 0.2, with a margin of 5 % of the span on both sides.
    low, span = -0.03 - 0.05 * 0.23, 0.23 * 1.1
    _, line, dot = (path.attrib["d"] for path in ET.fromstring(drawn[1]))  # of image
    assert line == f"M{100 * (0.05 - low) / span:.2f} 5H{100 * (0.16 - low) / span:.2f}"
    assert dot == f"M{100 * (0.109 - low) / span:.2f} 5h0"
    assert html.count("an end of the scale, not drawn") == 2


def test_the_same_content_gives_the_same_files(content: ReportContent, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_report(content, tmp_path / name / "report.html")
        write_plots(content, tmp_path / name)
    first = sorted((tmp_path / "first").iterdir())
    assert [path.name for path in first] == [
        "differences.png",
        "fusion.png",
        "fusion_surface.png",
        "precision.png",
        "recall.png",
        "report.html",
    ]
    for path in first:
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
    for path in first[:-1]:
        drawn = cv2.imread(str(path))
        assert drawn is not None
        assert drawn.std() > 10  # not an empty sheet


def test_a_report_without_trials_has_no_fusion_plot(content: ReportContent, tmp_path: Path) -> None:
    without = replace(content, trials=None, surface=None)
    assert len(write_plots(without, tmp_path)) == 3
    assert written(without, tmp_path).text_of("figcaption") == [
        "Precision by depth, strict",
        "Average recall (AR) by depth, strict",
    ]


def test_photos_shrink_until_the_report_fits_and_else_it_is_refused(
    content: ReportContent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    whole = write_report(content, path)
    monkeypatch.setattr(page, "MAX_REPORT_BYTES", whole - 10_000)
    smaller = write_report(content, path)
    assert smaller == path.stat().st_size < whole - 10_000
    monkeypatch.setattr(page, "MAX_REPORT_BYTES", 10_000)
    path.unlink()
    with pytest.raises(RetrievalError, match=r"the report of 4 queries has .* lower num_report"):
        write_report(content, path)
    assert not path.exists()


def test_queries_are_chosen_best_worst_and_at_random_without_overlap() -> None:
    ap = pd.Series(np.linspace(0, 1, 101), [f"q{n:03d}" for n in range(101)])
    chosen = choose_queries(ap, 11, seed=0)
    by_tag = {
        tag: [q for q, of in chosen.items() if of == tag] for tag in ("best", "worst", "random")
    }
    assert by_tag["best"] == ["q100", "q099", "q098"]
    assert by_tag["worst"] == ["q000", "q001", "q002"]
    assert len(by_tag["random"]) == 5
    assert choose_queries(ap, 11, seed=0) == chosen
    assert choose_queries(ap, 11, seed=1) != chosen
    assert set(choose_queries(ap[:2], 11, seed=0)) == {"q000", "q001"}


def test_a_thumbnail_keeps_proportions_and_never_grows() -> None:
    photo = np.full((300, 600, 3), 200, np.uint8)
    assert decode_photo(thumbnail(photo, 100), "t").shape == (50, 100, 3)
    assert decode_photo(thumbnail(photo, 1000), "t").shape == (300, 600, 3)


def test_whole_photo_methods_are_described_by_their_base() -> None:
    assert describe("image_whole_photo") == f"{describe('image')}; whole photo at once"
    assert describe("something_new") == "something_new"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Page]:
    if CHROMIUM is None:
        pytest.skip("needs chromium on the PATH")
    with browser() as page:
        yield page


def shown(page: Page) -> list[str]:
    script = "[...document.querySelectorAll('article')].filter(a => a.offsetHeight > 0)"
    return list(page.evaluate(script + ".map(a => a.querySelector('h3').textContent)"))


def test_a_browser_shows_the_report_without_a_complaint_and_filters_by_keyboard(
    chromium: Page, report: Path
) -> None:
    chromium.open(report, 1280, 900)
    assert len(shown(chromium)) == 4
    chromium.evaluate("document.querySelector('.filter button').focus()")
    chromium.press("ArrowRight")
    chromium.press("Tab")
    assert chromium.evaluate("document.activeElement.textContent") == "Worst 2"
    chromium.press("Enter")
    assert shown(chromium) == ["正品套装 2", "正品套装 3"]
    assert chromium.evaluate("document.getElementById('shown').textContent") == (
        "2 of 4 queries shown"
    )
    pressed = "[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.textContent)"
    assert chromium.evaluate(pressed) == ["Worst 2"]
    chromium.press("ArrowRight")
    chromium.press("ArrowRight")
    chromium.press("Enter")
    assert len(shown(chromium)) == 4
    broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
    assert chromium.evaluate(broken) == 0
    assert chromium.problems == []
    assert {url.split(":")[0] for url in chromium.requests} <= {"file", "data"}


def test_a_slice_is_chosen_by_keyboard_and_meets_the_other_filter(
    chromium: Page, report: Path
) -> None:
    chromium.open(report, 375, 800)
    options = "[...document.querySelectorAll('#slice option')].map(o => o.textContent)"
    assert chromium.evaluate(options) == [
        "every slice",
        "products: 3 (2)",
        "products: 4+ (2)",
        "brand: 倩碧 (4)",
    ]
    chromium.evaluate("document.getElementById('slice').focus()")
    chromium.press("ArrowDown")
    assert chromium.evaluate("document.getElementById('slice').value") == "products=3"
    assert shown(chromium) == ["正品套装 1", "正品套装 2"]
    chromium.evaluate("document.querySelector('.filter button').focus()")
    chromium.press("Tab")
    chromium.press("Tab")
    chromium.press("Enter")  # worst
    assert shown(chromium) == ["正品套装 2"]
    status = "document.getElementById('shown').textContent"
    assert chromium.evaluate(status) == "1 of 4 queries shown"
    chromium.press("ArrowRight")  # random, focused but not chosen
    chromium.press("Tab")
    assert chromium.evaluate("document.activeElement.id") == "slice"
    chromium.press("ArrowUp")
    assert shown(chromium) == ["正品套装 2", "正品套装 3"]
    assert chromium.problems == []


def test_the_tab_key_walks_the_page_in_order_with_the_focus_in_sight(
    chromium: Page, report: Path
) -> None:
    chromium.open(report, 1280, 900)
    place = """(() => {
        const focusable = [...document.querySelectorAll('a, button, select, [tabindex="0"]')];
        const style = getComputedStyle(document.activeElement);
        const named = document.activeElement.textContent || document.activeElement.ariaLabel;
        return [focusable.indexOf(document.activeElement), focusable.length,
                style.outlineStyle, parseFloat(style.outlineWidth), Boolean(named)];
    })()"""
    number = chromium.evaluate(place)[1]
    assert number > 15
    for expected in range(number):
        chromium.press("Tab")
        at, _, outline, width_px, named = chromium.evaluate(place)
        assert (at, outline, named) == (expected, "solid", True)
        assert width_px >= 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(
    chromium: Page, report: Path, scheme: Literal["light", "dark"]
) -> None:
    chromium.open(report, 1280, 900, scheme)
    names = ("page", "card", "shade", "text", "faint", "accent", "right", "wrong")
    script = "(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    colours = {name: str(chromium.evaluate(f"{script}('{name}')")) for name in names}
    for behind in ("page", "card", "shade"):
        for front in ("text", "faint", "accent", "right", "wrong"):
            ratio = contrast(colours[front], colours[behind])
            assert ratio >= 4.5, (front, behind, ratio)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's ratio of two colours written as #rrggbb."""

    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_fits_its_window_from_phone_to_desk(
    chromium: Page, content: ReportContent, tmp_path: Path
) -> None:
    long = replace(
        content, queries=[replace(content.queries[0], title="套" * 60, labels=("x" * 90,))]
    )
    write_report(long, tmp_path / "report.html")
    for width_px in (320, 375, 800, 1600):
        chromium.open(tmp_path / "report.html", width_px, 900)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width_px
