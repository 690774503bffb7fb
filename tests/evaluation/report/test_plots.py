"""The report's plots as PNG files."""

from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from product1m.evaluation.report import ReportContent, write_report
from tests.support.worlds.report_page import Document, example_content


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return example_content()


def test_the_same_content_gives_the_same_files(content: ReportContent, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_report(content, tmp_path / name / "report.html")
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
    write_report(without, tmp_path / "report.html")
    assert len(list(tmp_path.glob("*.png"))) == 3
    document = Document((tmp_path / "report.html").read_text("utf-8"))
    assert document.text_of("figcaption") == [
        "Precision by depth, strict",
        "Average recall (AR) by depth, strict",
    ]
