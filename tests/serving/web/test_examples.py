"""`make demo`: the page with its example photos, answered by the model that is kept here."""

import re
from pathlib import Path

import pytest

from product1m.errors import StorageError
from product1m.serving.web.examples import read_examples
from tests.support.paths import ROOT
from tests.support.servers.browser import CHROMIUM, browser
from tests.support.servers.search_server import running_search_server

LABELS = {
    1: {
        "AUBERYN 紫堇植萃精华液",
        "AUBERYN 油橄榄护手霜",
        "AUBERYN 紫堇舒眠睡眠面膜",
        "AUBERYN 紫堇平衡化妆水清润型",
    },
    4: {"YUNHAE 朱颜丝绒口红正红", "YUNHAE 参韵赋活精华水"},
}
"""Example photo to what a person sees in it: the label of the first answer to every box."""


def demo_options() -> list[str]:
    """Options of `serve` in the recipe of `make demo`."""
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ndemo: ")[2]
    (options,) = re.findall(r"product1m serve (.+) --open", recipe)
    return [str(ROOT / word) if word.startswith("demo/") else word for word in options.split()]


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_the_demo_answers_its_photos_with_the_products_in_them() -> None:
    patient = ("--set", "serving.deadline_s=600")
    with running_search_server(*demo_options(), *patient) as server, browser() as page:
        for number, labels in LABELS.items():
            page.open(f"{server.url}/", 1000, 800)
            page.click(f"#examples li:nth-child({number}) button")
            page.wait_for("[data-role=champion] article")
            first = page.evaluate(
                "[...document.querySelectorAll('article')].map(box =>"
                "box.querySelector('li strong').textContent)"
            )
            assert set(first) == labels
            assert len(first) == len(labels)
            numbers = "[...document.querySelectorAll('figure text')]"
            heights = page.evaluate(f"{numbers}.map(text => text.getAttribute('font-size'))")
            assert len(set(heights)) == 1
            status = page.evaluate("document.querySelector('#status').textContent")
            assert status == f"{len(labels)} boxes answered"
            assert page.problems == []
        assert page.evaluate("document.querySelector('.mark').textContent").startswith("SAMPLE")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (None, "examples.jsonl: cannot be read"),
        ("{", r'examples.jsonl:1: expected \{"photo": "name.jpg", "title": "…"\}, got'),
        ('{"photo": "a.jpg", "title": "ü"}', "cannot be read .*utf-8"),
        ('{"photo": "../a.jpg", "title": ""}', "expected the name of a file in"),
        ('{"photo": "a.jpg", "title": ""}', "photo 'a.jpg' cannot be read"),
    ],
)
def test_examples_that_cannot_be_read_are_explained(
    tmp_path: Path, line: str | None, message: str
) -> None:
    if line is not None:
        (tmp_path / "examples.jsonl").write_text(line, "latin-1")
    with pytest.raises(StorageError, match=message):
        read_examples(tmp_path)
