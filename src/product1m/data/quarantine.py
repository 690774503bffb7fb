"""Items that cannot be used, with place and reason; too many of them stop the step."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from product1m.data.lists import RejectedLine
from product1m.errors import DatasetError, redacted

QUARANTINE = "quarantine.parquet"
SCHEMA = pa.schema(
    [("list", pa.string()), ("line", pa.int64()), ("id", pa.string()), ("reason", pa.string())]
)
NUM_QUOTED = 5
"""Number of reasons quoted in the error (ours)."""


class Quarantine:
    """Collects the rejected lines of a role's lists and stops once they are too many."""

    def __init__(self, role: str, num_rows: int, max_share: float) -> None:
        self._role = role
        self._num_rows = num_rows
        self._max_share = max_share
        self.rows: list[RejectedLine] = []

    @property
    def share(self) -> float:
        """Quarantined share of the lists' lines that are not blank."""
        return len(self.rows) / max(self._num_rows, 1)

    def add(self, row: RejectedLine) -> None:
        """Quarantine a row; DatasetError with the first reasons if the share is exceeded."""
        self.rows.append(row)
        if self.share > self._max_share:
            quoted = "\n  ".join(str(row) for row in self.rows[:NUM_QUOTED])
            raise DatasetError(
                f"{self._role}: {len(self.rows)} of {self._num_rows} items are quarantined, "
                f"more than ingestion.max_quarantine_share = {self._max_share:g} allows; "
                f"fix the list or raise the share. First reasons:\n  {quoted}"
            )

    def add_all(self, rows: Iterable[RejectedLine]) -> None:
        """Quarantine each of some rows."""
        for row in rows:
            self.add(row)

    def require_items(self, num_items: int, path: Path) -> None:
        """DatasetError with the first reasons if no line of the lists is a usable item."""
        if not num_items:
            quoted = "".join(f"\n  {row}" for row in self.rows[:NUM_QUOTED])
            raise DatasetError(
                f"{path}: none of its {self._num_rows} lines is a usable item{quoted}"
            )

    def write(self, folder: Path) -> None:
        """Write the table, in the order of the lists."""
        rows = [
            {
                "list": row.list_name,
                "line": row.line,
                "id": _encodable(row.id),
                "reason": _encodable(redacted(row.reason)),
            }
            for row in self.rows
        ]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / QUARANTINE)

    def most_frequent(self, count: int = 3) -> list[tuple[str, int]]:
        """The most frequent reasons, without the part that differs from item to item."""
        return Counter(row.reason.split(":")[0] for row in self.rows).most_common(count)


def _encodable(text: str) -> str:
    """Text as it is, but for half surrogate pairs, which JSON can hold and no file can."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
