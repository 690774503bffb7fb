"""The table of labels stands for a dictionary."""

import pytest

from product1m.evaluation.item_labels import ItemLabels

LABELS = {"g3": "brand b", "g1": "brand a", "g2": "brand b", "": "brand c"}


def test_a_table_of_labels_equals_the_dictionary() -> None:
    table = ItemLabels(LABELS.keys(), LABELS.values())
    assert dict(table) == dict(table.items()) == LABELS
    assert list(table.values()) == list(LABELS.values())
    assert table.names == ["brand b", "brand a", "brand c"]
    assert [table.names[code] for code in table.codes] == list(LABELS.values())
    assert ("g2" in table, "g9" in table, table.get("g9")) == (True, False, None)


def test_an_unknown_item_has_no_label() -> None:
    with pytest.raises(KeyError, match="g9"):
        ItemLabels(LABELS.keys(), LABELS.values())["g9"]
