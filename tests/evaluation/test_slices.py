"""Slices by hand."""

import pandas as pd
import pytest

from product1m.errors import RetrievalError
from product1m.evaluation.slices import (
    DEFINITIONS,
    classes_with_sisters,
    slice_intervals,
    slices_of,
)
from product1m.evaluation.statistics import BootstrapPlan

PLAN = BootstrapPlan(num_bootstrap=2000, confidence=0.95, seed=0)


def test_slices_count_occurrences_name_brands_and_rank_classes_by_frequency() -> None:
    queries: dict[str, tuple[str, ...]] = {
        f"q{n}": ("倩碧 面霜",) for n in range(6)
    }  # a class of 6 queries
    queries |= {"four": ("倩碧 乳液", "倩碧 乳液", "倩碧 水", "倩碧 霜")}
    queries |= {"mixed": ("倩碧 面霜", "兰蔻 精华")}
    queries |= {f"few{n}": ("兰蔻 精华", "兰蔻 精华") for n in range(2)}
    slices = slices_of(queries, [])
    found = {
        str(row.Index): [row.products, row.brand, row.class_frequency]
        for row in slices.itertuples()
    }
    assert found["q0"] == ["1", "倩碧", "frequent"]
    # The labels of `four` occur in 1 query each, those of `few0` in 3.
    assert found["four"] == ["4+", "倩碧", "rare"]
    assert found["few0"] == ["2", "other", "rare"]
    # One query of several brands; its labels occur in 7 and 3 queries.
    assert found["mixed"] == ["2", "other", "medium"]


def test_thirds_are_thirds_where_frequencies_differ() -> None:
    queries = {
        f"{label}{n}": (label,) for label, count in zip("abc", (3, 4, 5), strict=True)
        for n in range(count)
    }  # fmt: skip
    found = slices_of(queries, [])["class_frequency"].value_counts().to_dict()
    assert found == {"rare": 3, "medium": 4, "frequent": 5}


def test_slice_intervals_cover_every_query_once_a_kind() -> None:
    queries: dict[str, tuple[str, ...]] = {f"a{n}": ("甲 x",) for n in range(6)}
    queries |= {f"b{n}": ("乙 y", "乙 y", "乙 z") for n in range(7)} | {"c": ("丙 w", "丙 w")}
    scores = pd.Series([0.5] * 6 + [0.25] * 7 + [1.0], list(queries))
    table = slice_intervals(scores, slices_of(queries, []), PLAN)
    assert table.groupby("by", sort=False)["num_queries"].sum().to_dict() == {
        "products": 14,
        "brand": 14,
        "class_frequency": 14,
        "sisters": 14,
    }
    rows = table.set_index(["by", "slice"])
    assert rows.loc[("products", "1"), "mean"] == 0.5
    assert rows.loc[("brand", "乙"), "mean"] == 0.25
    assert rows.loc[("brand", "other"), "num_queries"] == 1
    assert table[table["by"] == "products"]["slice"].to_list() == ["1", "2", "3"]
    assert table[table["by"] == "brand"]["slice"].to_list()[-1] == "other"


def test_queries_without_a_score_are_in_no_slice() -> None:
    slices = slices_of({"q1": ("A",), "q2": ("A",)}, [])
    table = slice_intervals(pd.Series([0.5], ["q1"]), slices, PLAN)
    assert table["num_queries"].to_list() == [1, 1, 1, 1]


def test_no_queries_have_no_slices() -> None:
    with pytest.raises(RetrievalError, match="no queries to slice"):
        slices_of({}, [])


def test_sisters_are_products_of_one_brand_with_names_that_are_nearly_alike() -> None:
    labels = [
        "悦木 平衡化妆水清润型",
        "悦木 平衡化妆水浓润型",  # differs in one character of nine
        "悦木 平衡面霜",
        "兰蔻 平衡化妆水清润型",  # another brand's
        "兰蔻 口红正红",
        "兰蔻 口红豆沙",  # 2 of 4 characters: half alike
    ]
    assert classes_with_sisters(labels) == set(labels[:2])
    assert classes_with_sisters([labels[0], labels[0]]) == set()


def test_a_query_is_with_sisters_if_one_of_its_products_has_one_in_the_gallery() -> None:
    gallery = ["a 润肤乳液100ml", "a 润肤乳液150ml", "a 面膜"]
    queries = {
        "one": ("a 面膜", "a 润肤乳液100ml"),
        "none": ("a 面膜",),
        "not in the gallery": ("a 润肤乳液200ml",),
    }
    assert slices_of(queries, gallery)["sisters"].tolist() == ["yes", "no", "no"]


def test_a_query_is_named_in_train_if_titles_name_all_its_classes() -> None:
    queries = {"all": ("a x", "a y"), "some": ("a x", "a z"), "none": ("a z",)}
    slices = slices_of(queries, [], {"a x": 3, "a y": 1, "a z": 0})
    assert slices["named_in_train"].tolist() == ["yes", "no", "no"]


@pytest.mark.parametrize("train_titles", [None, {"a x": 1}])
def test_classes_that_nobody_looked_for_in_titles_make_no_slices(
    train_titles: dict[str, int] | None,
) -> None:
    slices = slices_of({"q": ("a x", "a y")}, [], train_titles)
    assert list(slices) == ["products", "brand", "class_frequency", "sisters"]


def test_every_slicing_is_defined() -> None:
    slices = slices_of({"q": ("a x",)}, [], {"a x": 1}, [])
    assert list(slices) == list(DEFINITIONS)


def test_a_set_of_labels_is_known_from_dev_whatever_its_order_and_repeats() -> None:
    queries = {"known": ("a x", "a y", "a x"), "part": ("a x",), "more": ("a x", "a y", "a z")}
    slices = slices_of(queries, [], dev_labels=[("a y", "a x"), ("a y",)])
    assert slices["labels_in_dev"].to_dict() == {"known": "yes", "part": "no", "more": "no"}
    assert "labels_in_dev" not in slices_of(queries, [])
