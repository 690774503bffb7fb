"""The sample split's lists: Product1M's format and the statistics the real lists are known by."""

import html
import os
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from product1m.data.lists import ListItem, find_lists, read_list
from product1m.sample import SampleSizes
from product1m.sample.drawn.plan import LISTS, plan_rows
from product1m.sample.drawn.split import write_list

SHARED = os.environ.get("PRODUCT1M_SHARED_DATA")


class Line(NamedTuple):
    id: str
    title: str
    url_a: str
    url_b: str
    labels: list[str]


def write_lists(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    rows = plan_rows(SampleSizes(), seed)
    for name in LISTS:
        write_list(folder / f"product1m_{name}_ossurl_v2.txt", rows[name])
    return folder


def lines_of(folder: Path, name: str) -> list[Line]:
    """Split by hand, not by the project's own reader."""
    text = (folder / f"product1m_{name}_ossurl_v2.txt").read_bytes().decode("utf-8")
    assert text.endswith("\r\n")
    assert text.count("\n") == text.count("\r\n") == text.count("\r")
    found = []
    for line in text[:-2].split("\r\n"):
        fields = line.split("#####")
        assert len(fields) == (4 if name == "train" else 5)
        labels = fields[4].split("#;#") if len(fields) == 5 else []
        found.append(Line(fields[0], fields[1], fields[2], fields[3], labels))
    return found


@pytest.fixture(scope="module", params=[0, 1, 2])
def lists(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lists(tmp_path_factory.mktemp("lists"), request.param)


def test_every_list_has_at_least_the_items_it_must_have(lists: Path) -> None:
    assert len(lines_of(lists, "train")) >= 800
    assert len(lines_of(lists, "gallery")) >= 400
    assert len(lines_of(lists, "dev")) >= 70
    assert len(lines_of(lists, "test")) >= 150


def test_ids_are_digits_mostly_twelve_of_them_and_used_once(lists: Path) -> None:
    ids = [line.id for name in LISTS for line in lines_of(lists, name)]
    assert all(re.fullmatch(r"[0-9]{10,18}", item_id) for item_id in ids)
    assert len(set(ids)) == len(ids)
    assert sum(len(item_id) == 12 for item_id in ids) / len(ids) > 0.9
    assert any(len(line.id) == 18 for line in lines_of(lists, "test"))


def test_addresses_look_like_the_real_ones_but_lead_nowhere(lists: Path) -> None:
    for line in lines_of(lists, "test"):
        assert re.fullmatch(
            r"https://img\.alicdn\.example/imgextra/i[1-4]/\S+\.(jpg|png|jpeg)", line.url_a
        )
        assert line.url_b.startswith("http://photos.example/")
        assert line.url_b.endswith(f"/{line.id}.jpg")


def test_the_projects_reader_accepts_every_line(lists: Path) -> None:
    for files in find_lists(lists).values():
        for list_file in files:
            read = list(read_list(list_file))
            assert all(isinstance(line, ListItem) for line in read)


def test_there_are_forty_classes_of_eight_brands_all_in_the_gallery(lists: Path) -> None:
    gallery = Counter(line.labels[0] for line in lines_of(lists, "gallery"))
    queries = {
        label for name in ("dev", "test") for line in lines_of(lists, name) for label in line.labels
    }
    assert all(len(line.labels) == 1 for line in lines_of(lists, "gallery"))
    assert len(queries) >= 40
    assert len({label.split(" ")[0] for label in queries}) == 8
    assert queries <= set(gallery)
    assert min(gallery.values()) >= 6


def test_queries_have_the_label_statistics_of_the_real_lists(lists: Path) -> None:
    lines = lines_of(lists, "dev") + lines_of(lists, "test")
    mentions = [(line, label) for line in lines for label in line.labels]
    assert len(mentions) / len(lines) == pytest.approx(2.8, abs=0.1)
    repeats = sum(len(set(line.labels)) < len(line.labels) for line in lines)
    assert repeats / len(lines) == pytest.approx(0.15, abs=0.05)
    brands = [{label.split(" ")[0] for label in line.labels} for line in lines]
    assert 0.985 <= sum(len(names) == 1 for names in brands) / len(lines) < 1
    named = sum(label.split(" ", 1)[1] in line.title for line, label in mentions)
    assert named / len(mentions) == pytest.approx(0.1, abs=0.04)
    token = sum(
        any(name in line.title for name in names) for line, names in zip(lines, brands, strict=True)
    )
    assert token / len(lines) == pytest.approx(0.9, abs=0.05)


def test_some_classes_are_asked_for_far_more_often_than_others(lists: Path) -> None:
    counts = Counter(label for line in lines_of(lists, "test") for label in line.labels)
    total = sum(counts.values())
    top = sum(number for _, number in counts.most_common(10)) / total
    assert 10 / len(counts) * 1.5 < top < 0.6
    assert min(counts.values()) <= 4


def test_titles_are_as_long_as_real_ones(lists: Path) -> None:
    lengths = sorted(
        len(html.unescape(line.title)) for name in ("dev", "test") for line in lines_of(lists, name)
    )
    assert sum(lengths) / len(lengths) == pytest.approx(31, abs=1.5)
    assert lengths[len(lengths) // 4] >= 26
    assert lengths[3 * len(lengths) // 4] <= 37
    assert lengths[0] >= 4
    assert lengths[-1] <= 60
    chinese = [len(re.findall(r"[\u4e00-\u9fff]", line.title)) for line in lines_of(lists, "test")]
    assert sum(chinese) / len(chinese) > 17


def test_a_single_products_title_names_it_more_often_than_a_sets(lists: Path) -> None:
    gallery = lines_of(lists, "gallery")
    named = sum(line.labels[0].split(" ", 1)[1] in line.title for line in gallery)
    assert 0.2 < named / len(gallery) < 0.5


def test_photos_and_titles_repeat_within_and_across_lists(lists: Path) -> None:
    urls = {name: Counter(line.url_a for line in lines_of(lists, name)) for name in LISTS}
    titles = {name: Counter(line.title for line in lines_of(lists, name)) for name in LISTS}
    for name in LISTS:
        assert max(urls[name].values()) >= 2
        assert max(titles[name].values()) >= 2
        repeated = sum(number for number in urls[name].values() if number > 1)
        assert repeated / urls[name].total() < 0.2
    assert urls["dev"].keys() & urls["test"].keys()
    assert titles["dev"].keys() & titles["test"].keys()
    assert urls["train"].keys() & urls["test"].keys()


def test_few_titles_hold_html_entities(lists: Path) -> None:
    for name in LISTS:
        lines = lines_of(lists, name)
        number = sum(html.unescape(line.title) != line.title for line in lines)
        assert 1 <= number <= 0.03 * len(lines)


def test_many_train_titles_are_of_sets(lists: Path) -> None:
    words = ("套装", "礼盒", "套盒", "组合", "全套", "件套", "瓶装")
    sets = sum(any(word in line.title for word in words) for line in lines_of(lists, "train"))
    assert 200 <= sets <= 400


def test_labels_repeat_as_sets_that_sellers_offer(lists: Path) -> None:
    multisets = Counter(tuple(sorted(line.labels)) for line in lines_of(lists, "test"))
    assert len(multisets) < 0.4 * multisets.total()


def test_the_seed_decides_every_line(tmp_path: Path) -> None:
    first, again, other = (
        write_lists(tmp_path / name, seed) for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    for path in first.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
        assert path.read_bytes() != (other / path.name).read_bytes()


@pytest.mark.skipif(SHARED is None, reason="PRODUCT1M_SHARED_DATA does not name the real lists")
def test_no_brand_product_or_title_of_the_real_list_is_copied(lists: Path) -> None:
    real = Path(SHARED or "", "product1m", "product1m_dev_ossurl_v2.txt").read_text("utf-8")
    rows = [line.split("#####") for line in real.splitlines()]
    real_labels = {label for row in rows for label in row[4].split("#;#")}
    real_brands = {label.split(" ")[0].lower() for label in real_labels}
    real_names = {label.split(" ", 1)[1] for label in real_labels}
    real_windows = {row[1][at : at + 14] for row in rows for at in range(len(row[1]) - 13)}
    for line in lines_of(lists, "test") + lines_of(lists, "gallery"):
        for label in line.labels:
            brand, name = label.split(" ", 1)
            assert brand.lower() not in real_brands
            assert name not in real_names
        windows = {line.title[at : at + 14] for at in range(len(line.title) - 13)}
        assert not windows & real_windows


def test_dev_has_no_class_that_test_lacks(lists: Path) -> None:
    dev, test = (
        {label for line in lines_of(lists, name) for label in line.labels}
        for name in ("dev", "test")
    )
    assert dev < test


def test_the_number_of_products_a_query_falls_off_as_in_the_real_lists(lists: Path) -> None:
    counts = Counter(len(line.labels) for line in lines_of(lists, "test"))
    assert counts[2] / counts.total() == pytest.approx(0.45, abs=0.03)
    assert all(counts[few] > counts[more] for few, more in pairwise((2, 3, 4, 5, 7)))
    assert counts[1] >= 1
