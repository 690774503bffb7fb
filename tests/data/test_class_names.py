"""Which classes titles name."""

from pathlib import Path

import pandas as pd

from product1m.data.class_names import CLASSES, count_naming_titles, write_classes


def test_a_title_names_a_class_by_brand_and_name_case_and_blanks_apart() -> None:
    titles = [
        "正品AURA 珍珠 面霜 50ml",
        "aura珍珠面霜套装 aura眼霜",
        "珍珠面霜 no brand",
        "AURA 面霜",
    ]
    labels = ["Aura 珍珠面霜", "Aura 眼霜", "Aura  珍珠 面霜X", "Bola 眼霜"]
    found = count_naming_titles(titles, labels)
    assert found == {"Aura 珍珠面霜": 2, "Aura 眼霜": 1, "Aura  珍珠 面霜X": 0, "Bola 眼霜": 0}


def test_the_table_has_a_row_a_class(tmp_path: Path) -> None:
    write_classes(tmp_path, {"b": 0, "a": 3})
    table = pd.read_parquet(tmp_path / CLASSES)
    assert table.to_dict("list") == {"label": ["a", "b"], "train_titles": [3, 0]}
