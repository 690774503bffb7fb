"""The report as one HTML file: complete, safe, with everything it should show."""

import base64
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from product1m.data.photos import decode_photo
from product1m.errors import RetrievalError
from product1m.evaluation.methods import describe
from product1m.evaluation.report import (
    AnswerCard,
    BoxCard,
    ReportContent,
    page,
    write_report,
)
from product1m.evaluation.statistics import Interval
from tests.support.worlds.report_page import MEANS, Document, noise

HOSTILE = "<script>alert('标题')</script> & \"quotes\" </article><img src=https://evil.example/x>"


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
        boxes=[
            BoxCard((0.0, 0.0, 9.0, 9.0), 0.5, [AnswerCard(HOSTILE, HOSTILE, noise(0), 0.5, True)])
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


def test_the_summary_comes_first_and_names_the_baselines_not_beaten(document: Document) -> None:
    sentence = "✗ NOT clearly ahead of every baseline: image_text by +0.012 [-0.010, +0.030]."
    assert document.text_of("p")[0] == sentence
    assert document.text_of("h2")[0] == "Summary"


def test_a_ranking_ahead_of_every_baseline_names_the_closest(
    content: ReportContent, tmp_path: Path
) -> None:
    leads = dict(content.differences) | {"image_text": Interval(0.112, 0.07, 0.13)}
    document = written(replace(content, differences=leads), tmp_path)
    # The lead whose interval begins lowest, not the smallest mean.
    sentence = "✓ Ahead of all 2 baselines; the closest is image by +0.109 [+0.050, +0.160]."
    assert document.text_of("p")[0] == sentence


def test_rankings_are_sorted_by_what_the_paired_intervals_show(document: Document) -> None:
    assert "0.421" in document.text_of("p")
    items = document.text_of("li")
    assert "✓ ahead of image, text_whole_photo" in items
    assert "✗ behind joint" in items
    assert "? undecided against image_text" in items
    assert any("95 % interval [0.401, 0.451]" in text for text in document.text_of("p"))
    assert any("3 of 150 test queries" in text for text in document.text_of("p"))


def test_every_method_is_listed_in_both_definitions_with_its_intervals(document: Document) -> None:
    assert "Definition: strict, test queries" in document.text_of("caption")
    assert "Definition: official, test queries" in document.text_of("caption")
    cells = document.text_of("td")
    for mean in MEANS.values():
        for shown in (mean, mean + 0.005):
            cell = f"{shown:.3f}[{shown - 0.02:.3f}, {shown + 0.03:.3f}]"
            assert cells.count(cell) >= 9
    assert "+0.109[+0.050, +0.160]" in cells


def test_answers_are_marked_in_words_not_by_color_alone(document: Document) -> None:
    marks = document.text_of("b")
    assert marks.count("✓ right") == 4 * (2 + 2)
    assert marks.count("↷ elsewhere in this photo") == 4
    assert marks.count("✗ wrong") == 4
    spoken = [
        a["aria-label"] for tag, a in document.tags if a.get("role") == "img" and tag == "span"
    ]
    assert spoken == ["right", "wrong", "right"] * 4


def test_boxes_are_drawn_in_place_and_numbered(document: Document) -> None:
    boxes = [a for tag, a in document.tags if tag == "rect" and a["class"] == "box"]
    first = {name: float(boxes[0][name]) for name in ("x", "y", "width", "height")}
    assert first == {"x": 80.0, "y": 60.0, "width": 320.0, "height": 240.0}
    numbers = [a["style"] for tag, a in document.tags if a.get("class") == "number"]
    assert numbers[:2] == ["left:10.00%;top:10.00%", "left:51.25%;top:0.00%"]
    assert document.text_of("h4")[:2] == [
        "Box 1 detector score 0.97",
        "Box 2 detector score 0.61",
    ]


def test_slices_fusion_and_facts_are_there(document: Document) -> None:
    headings = document.text_of("th")
    assert {"4+", "倩碧"} <= set(headings)
    assert "150" in document.text_of("dd")
    assert "0.75" in document.text_of("td")
    assert "The best score on the dev queries by block weight" in document.text_of("figcaption")
    assert f"image{describe('image')}" in headings


def test_slices_carry_their_definition_and_the_lead_over_the_rest(document: Document) -> None:
    captions = document.text_of("caption")
    assert "By products as labeled." in captions
    assert "By brand first word." in captions
    assert document.text_of("td").count("+0.020[-0.040, +0.080]") == 2


def test_gains_detection_and_latency_are_tables_of_their_own(document: Document) -> None:
    headings, cells = document.text_of("th"), document.text_of("td")
    assert {"imagejoint", "imageimage", "jointimage + joint"} <= set(headings)
    assert cells.count("0.500[0.375, 0.625]") == cells.count("+0.125[-0.062, +0.250]") == 3
    assert "-0.250[-0.375, -0.125]" in cells
    assert any("Products found: 0.812 [0.750, 0.850]" in text for text in document.text_of("p"))
    assert any("Boxes: 0.938 [0.900, 0.950] of those shown" in t for t in document.text_of("p"))
    assert cells[cells.index("3") : cells.index("3") + 4] == ["3", "1", "·", "146"]
    assert {"1.25", "2.50", "9.50", "19.25"} <= set(cells)


def test_strips_run_from_low_to_high_on_a_common_scale(report: Path) -> None:
    html = report.read_text("utf-8")
    drawn = re.findall(r'<svg class="strip".*?</svg>', html, re.DOTALL)
    # Rivals' ends: -0.03 to 0.2, with a margin of 5 % of the span on both sides.
    low, span = -0.03 - 0.05 * 0.23, 0.23 * 1.1
    _, line, dot = (path.attrib["d"] for path in ET.fromstring(drawn[1]))  # of image
    assert line == f"M{100 * (0.05 - low) / span:.2f} 5H{100 * (0.16 - low) / span:.2f}"
    assert dot == f"M{100 * (0.109 - low) / span:.2f} 5h0"
    assert html.count("end of the scale, not drawn") == 2


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
    with pytest.raises(
        RetrievalError, match=r"shows 4 queries and has .* lower evaluation.num_report"
    ):
        write_report(content, path)
    assert not path.exists()
