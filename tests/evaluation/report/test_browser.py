"""The report in a browser: usable by keyboard, readable, and on a phone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from product1m.evaluation.report import (
    ReportContent,
    write_report,
)
from tests.support.servers.browser import CHROMIUM, Page, browser


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
    colors = {name: str(chromium.evaluate(f"{script}('{name}')")) for name in names}
    for behind in ("page", "card", "shade"):
        for front in ("text", "faint", "accent", "right", "wrong"):
            ratio = contrast(colors[front], colors[behind])
            assert ratio >= 4.5, (front, behind, ratio)


def contrast(first: str, second: str) -> float:
    """WCAG 2.2's ratio of two colors written as #rrggbb."""

    def luminance(color: str) -> float:
        channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
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
