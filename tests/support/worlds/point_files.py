"""Files of points, as a feature set has them."""

from collections.abc import Iterable
from pathlib import Path

from product1m.data.points import Points, PointWriter


def write_points(folder: Path, points: Iterable[Points]) -> None:
    """Write the points of some items, in this order."""
    with PointWriter(folder) as writer:
        for photo in points:
            writer.add(photo)
