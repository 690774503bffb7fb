"""Write an uncompressed Arrow file with one row per item, batch by batch.

Readers map it, so its memory does not grow with the number of items.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pyarrow as pa


class RowWriter:
    """Writes rows in order; the file is complete when the block ends."""

    def __init__(self, path: Path, schema: pa.Schema, rows_per_batch: int) -> None:
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)
        self._schema, self._rows_per_batch = schema, rows_per_batch
        self._pending: list[Mapping[str, Any]] = []

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Append a row: column to value."""
        self._pending.append(row)
        if len(self._pending) == self._rows_per_batch:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._pending, self._schema))
            self._pending = []
