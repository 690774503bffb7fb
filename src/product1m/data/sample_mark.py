"""The mark of a sample data set, so that no model trained on it is promoted by mistake."""

from pathlib import Path

from product1m.storage.base import Store

SAMPLE_MARK = "SAMPLE"
"""File of a data set that is a sample; `make-sample` writes it."""
SAMPLE_DATA = "sample_data"
"""Key in the details of ingested artifacts: whether the data set has that file."""
_TEXT = (
    "This data set is a sample: figures measured on it say nothing about real photos.\n"
    "Models trained on it are marked, and promoted only with --override-sample.\n"
)


def mark_as_sample(folder: Path) -> None:
    """Write the mark into a data set's folder."""
    (folder / SAMPLE_MARK).write_text(_TEXT, "utf-8")


def is_sample(dataset: Store) -> bool:
    """Whether a data set has the mark."""
    return dataset.find(SAMPLE_MARK) is not None
