"""What a title names: a class (train items have no labels), or a set of products."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from product1m.artifacts.folder import Artifact

CLASSES = "classes.parquet"
"""Stored with the queries: one row for each class of the queries or the gallery."""
_SIZE = r"\d\s?(?:ml|g|毫升|克)"
_SEVERAL = re.compile(
    # 2瓶装, 三支装, 双瓶; *2, x3; pack of 2, 2-pack; 120ml乳液+120ml爽肤水
    r"(?<![\d.])(?:[2-9]|1\d|[两二三四五六七八九十双])\s?[瓶支盒件只罐袋包片个]?装|双[瓶支]"
    r"|[*×x]\s?[2-9](?![\d.]|\s?[cm]m)|\b(?:pack|set) of [2-9]|\b[2-9][ -]?(?:pack|pcs|pieces)\b"
    rf"|{_SIZE}.*[+/＋&、].*{_SIZE}"
)
"""Finds titles that count units or name two sizes (ours). In the real lists these are half of the
sets whose titles have no set word."""
SCHEMA = pa.schema([("label", pa.string()), ("train_titles", pa.int64())])


def count_naming_titles(titles: Iterable[str], labels: Collection[str]) -> dict[str, int]:
    """Count the titles with the brand and name of each class, ignoring case and white space (ours).

    A label is a brand, a space and a product name. A title that names a product in other words is
    not counted, so a class with no titles may still occur in the training photos.
    """
    by_brand: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for label in labels:
        brand, _, name = label.partition(" ")
        by_brand[_bare(brand)].append((_bare(name), label))
    counts = Counter(dict.fromkeys(labels, 0))
    for title in map(_bare, titles):
        for brand, named in by_brand.items():
            if brand in title:
                counts.update(label for name, label in named if name in title)
    return dict(counts)


def names_set(caption: str, set_words: Sequence[str]) -> bool:
    """Whether a title says that it sells several products: a set word, a count, or two sizes."""
    folded = caption.casefold()
    return any(word.casefold() in folded for word in set_words) or bool(_SEVERAL.search(folded))


def write_classes(folder: Path, train_titles: dict[str, int]) -> None:
    """Write the table, classes by name."""
    rows = [{"label": label, "train_titles": train_titles[label]} for label in sorted(train_titles)]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / CLASSES)


def _bare(text: str) -> str:
    return "".join(text.split()).casefold()


def read_train_titles(queries: Artifact) -> dict[str, int] | None:
    """Number of training titles that name each class; None if ingestion did not count them."""
    if CLASSES not in queries.manifest.files:
        return None
    table = pq.read_table(queries.file(CLASSES)).to_pydict()
    return dict(zip(table["label"], table["train_titles"], strict=True))
