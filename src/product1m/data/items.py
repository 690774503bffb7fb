"""Items and their photos: `items.parquet` beside WebDataset tar shards, read by offset.

One row per item. Columns of every table: `id` (str), `caption` (str), `labels` (list of str),
`group` (int64: items with the same photo or the same caption share it), `split` (str: `dev` or
`test` for a query, `train` or `held_out` for a scene, else empty), `width`, `height` (pixels of the
stored photo), `sha256` (of the stored bytes), `shard`, `offset`, `num_bytes` (where they are).
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from product1m.artifacts.atomic import whole_file
from product1m.artifacts.folder import Artifact
from product1m.artifacts.shards import Shard
from product1m.data.photos import Photo, decode_photo
from product1m.errors import ArtifactError
from product1m.storage.base import agreed

ITEMS = "items.parquet"
SOURCES = "sources/"
"""Folder in an artifact of scenes with the items that products were cut from, if they are kept."""
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("caption", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("group", pa.int64()),
        ("split", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),
        ("num_bytes", pa.int64()),
    ]
)
CONTENT = ("id", "caption", "labels", "split", "sha256")
"""Data sets are the same if these columns are equal (ours)."""
FEW_VALUES = ("split", "shard")
"""Columns that are kept as numbers of their different values."""
LONG_TEXTS = ("caption", "sha256")
"""Columns that take most of a table's memory."""
ROWS_PER_GROUP = 8192
"""Rows kept in memory before they are written to the table (ours)."""


class ItemWriter:
    """Appends items to tar shards and writes their table at the end of the block.

    `store` receives every finished shard.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str = "images",
        shard_mib: int = 256,
        store: Callable[[Path], None] | None = None,
    ) -> None:
        self._folder = folder
        self._prefix = prefix
        self._shard_limit = shard_mib << 20
        self._store = store
        self._rows: list[dict[str, Any]] = []
        self._num_written = 0
        self._num_shards = 0
        self._tar: tarfile.TarFile | None = None
        self._table: pq.ParquetWriter | None = None

    def add(
        self,
        id: str,
        encoded: bytes,
        size_px: tuple[int, int],
        *,
        caption: str,
        labels: list[str] | None = None,
        group: int = -1,
        split: str = "",
    ) -> str:
        """Append an item with its encoded photo, `size_px` (width, height); returns its SHA-256."""
        sha256 = hashlib.sha256(encoded).hexdigest()
        tar = self._open_for(len(encoded))
        member = tarfile.TarInfo(f"{id}.jpg")
        member.size = len(encoded)
        offset = tar.offset + tarfile.BLOCKSIZE
        tar.addfile(member, io.BytesIO(encoded))
        tar.getmembers().clear()  # tarfile keeps a kilobyte per member
        self._rows.append(
            {
                "id": id,
                "caption": caption,
                "labels": labels or [],
                "group": group,
                "split": split,
                "width": size_px[0],
                "height": size_px[1],
                "sha256": sha256,
                "shard": self._shard_name(),
                "offset": offset,
                "num_bytes": len(encoded),
            }
        )
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()
        return sha256

    def __len__(self) -> int:
        return self._num_written + len(self._rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._close_shard()
            self._flush()
        elif self._tar is not None:
            self._tar.close()
        if self._table is not None:
            self._table.close()

    def _flush(self) -> None:
        if self._table is None:
            self._table = pq.ParquetWriter(self._folder / ITEMS, SCHEMA)
        self._table.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._num_written += len(self._rows)
        self._rows = []

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            if self._store is not None:
                self._store(self._folder / self._shard_name())

    def _shard_name(self) -> str:
        return f"{self._prefix}-{self._num_shards - 1:05d}.tar"

    def _open_for(self, num_bytes: int) -> tarfile.TarFile:
        if self._tar is None or self._tar.offset + num_bytes > self._shard_limit:
            self._close_shard()
            self._num_shards += 1
            self._tar = tarfile.open(  # noqa: SIM115 — open over many calls, __exit__ closes it
                self._folder / self._shard_name(), "w", format=tarfile.USTAR_FORMAT
            )
        return self._tar


class ItemTable:
    """The items of an artifact and their photos; `folder` is where in it they are."""

    def __init__(self, artifact: Artifact, folder: str = "") -> None:
        self.artifact = artifact
        self.rows: pd.DataFrame = read_items(artifact, f"{folder}{ITEMS}")
        self._folder = folder

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, position: int) -> bytes:
        """The stored bytes of the photo at a row position."""
        row = self.rows.iloc[position]
        shard = self.artifact.shard(f"{self._folder}{row['shard']}")
        return read_photo(shard, int(row["offset"]), int(row["num_bytes"]), str(row["sha256"]))

    def photo(self, position: int) -> Photo:
        """The decoded photo at a row position."""
        return decode_photo(
            self.encoded(position), f"{self.artifact.folder.name}/{self.rows.iloc[position]['id']}"
        )


def read_photo(shard: Shard, offset: int, num_bytes: int, sha256: str) -> bytes:
    """A stored photo's bytes, verified; ArtifactError if they are damaged in two reads."""
    encoded = agreed(lambda: shard.read(offset, num_bytes), _sha256, sha256)
    if (actual := _sha256(encoded)) != sha256:
        raise ArtifactError(
            f"{shard.address}: damaged: the photo at byte {offset}, expected sha256 {sha256}, got "
            f"{actual}; delete the shard and run the step that wrote it again"
        )
    return encoded


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def set_columns(folder: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Overwrite whole columns of a written table, row group by row group."""
    path, start = folder / ITEMS, 0
    with (
        whole_file(path) as partial,
        pq.ParquetFile(path) as file,
        pq.ParquetWriter(partial, SCHEMA) as writer,
    ):
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number)
            for name, values in columns.items():
                column = pa.array(values[start : start + len(rows)], SCHEMA.field(name).type)
                rows = rows.set_column(SCHEMA.get_field_index(name), name, column)
            start += len(rows)
            writer.write_table(rows)


def content_digest(folder: Path) -> str:
    """SHA-256 of the items' ids, captions, labels, splits and photos: equal for equal data sets."""
    digest = hashlib.sha256()
    with pq.ParquetFile(folder / ITEMS) as table:
        for batch in table.iter_batches(ROWS_PER_GROUP, columns=list(CONTENT)):
            for row in batch.to_pylist():
                digest.update(json.dumps([row[name] for name in CONTENT]).encode())
    return digest.hexdigest()


def read_items(artifact: Artifact, table: str = ITEMS) -> pd.DataFrame:
    """A table of items with `labels` as lists and a plain 0-based index.

    Text stays in Arrow's buffers, a third of what Python strings take. Rows with the same labels
    share one list: treat it as read-only.
    """
    columns: dict[str, Any] = {}
    path = artifact.file(table)
    names = pq.read_schema(path).names
    few_values = [name for name in FEW_VALUES if name in names]
    with pq.ParquetFile(path, read_dictionary=few_values) as file:
        # One by one, so that what reading takes is freed each time; long texts, which take most,
        # while little else is held.
        for name in sorted(names, key=lambda name: name not in LONG_TEXTS):
            column = file.read([name], use_threads=False).combine_chunks()
            pa.default_memory_pool().release_unused()
            if name == "labels":
                columns[name] = _shared_lists(column[name])
            else:
                columns[name] = column.to_pandas(types_mapper=_in_arrow)[name]
    return pd.DataFrame({name: columns[name] for name in names}, copy=False)


def item_groups(rows: pd.DataFrame, positions: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The duplicate group of the items at some positions; an item without one gets its own."""
    groups = rows["group"].to_numpy(np.int64)[positions]
    return np.where(groups >= 0, groups, -1 - positions)


def _in_arrow(kind: pa.DataType) -> pd.ArrowDtype | None:
    return pd.ArrowDtype(kind) if pa.types.is_string(kind) else None


def _shared_lists(lists: pa.ChunkedArray) -> list[list[str]]:
    """Lists of strings as Python objects, equal ones as the same object."""
    known: dict[tuple[str, ...], list[str]] = {}
    shared = []
    for start in range(0, len(lists), ROWS_PER_GROUP):
        rows = lists.slice(start, ROWS_PER_GROUP).to_pylist()
        shared += [known.setdefault(tuple(row), row) for row in rows]
    return shared
