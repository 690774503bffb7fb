"""The solids of cosmetic packs: a profile around an axis, with a round, oval or square section.

Lengths are relative to the pack's height: `y` runs from 0 (base) to 1 (top), the radius is the
half-width at `y`. Distances are looked up in a table of the profile's signed distance.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float32

TABLE_SCALE = 160
"""Samples of the distance table per pack height (ours)."""
TABLE_PAD = 0.25
"""What the table covers around the profile, in pack heights (ours)."""

Array = Float32[np.ndarray, "..."]


@dataclass(frozen=True)
class Capsule:
    """A rod with round ends, such as a pump's nozzle."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float


@dataclass(frozen=True)
class Part:
    """A pack's section below `top`; `role` says whose color and material it bears."""

    top: float
    role: str
    """`body`, `cap`, `collar`, `liquid`, or `shade`."""


@dataclass(frozen=True)
class Solid:
    """A pack without its print."""

    profile: tuple[tuple[float, float], ...]
    """(radius, y) from the base's center to the top's center."""
    parts: tuple[Part, ...]
    rounding: float = 0.008
    squareness: float = 2.0
    """Exponent of the section: 2 is an ellipse, 12 a rectangle."""
    depth: tuple[float, float] = (1.0, 1.0)
    """Depth relative to width, at the base and at the top."""
    label: tuple[float, float] = (0.05, 0.65)
    """Where print goes, in `y`."""
    nozzle: Capsule | None = None
    table: tuple[Array, Array, Array] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "table", _distance_table(self))

    @property
    def radius(self) -> float:
        """The widest half-width."""
        return max(radius for radius, _ in self.profile)

    def section_radius(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """The section's norm of points, and the depth's inverse and its slope at their `y`."""
        low, high = self.depth
        inverse = 1.0 / (low + (high - low) * np.clip(y, 0, 1))
        slope = np.where((y > 0) & (y < 1), -(high - low) * inverse**2, 0.0).astype(np.float32)
        if self.squareness == 2.0:
            return np.sqrt(x * x + (z * inverse) ** 2), inverse, slope
        n = self.squareness
        a, b = np.abs(x) + 1e-6, np.abs(z * inverse) + 1e-6
        larger = np.maximum(a, b)
        norm = larger * ((a / larger) ** n + (b / larger) ** n) ** (1 / n)
        return np.asarray(norm), inverse, slope

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """A distance from points to the solid that is never too large."""
        rho, inverse, _ = self.section_radius(x, y, z)
        distance = _look_up(self.table[0], rho, y) / np.maximum(inverse, 1.0)
        if self.nozzle is not None:
            distance = np.minimum(distance, capsule_distance(self.nozzle, x, y, z))
        return np.asarray(distance)

    def normals(self, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
        """Unit normals of points on the surface."""
        rho, inverse, slope = self.section_radius(x, y, z)
        d_rho, d_y = _look_up(self.table[1], rho, y), _look_up(self.table[2], rho, y)
        safe = np.maximum(rho, 1e-5)
        n = self.squareness - 1
        along_x = np.sign(x) * (np.abs(x) / safe) ** n
        along_z = np.sign(z) * (np.abs(z * inverse) / safe) ** n
        normal = (
            d_rho * along_x,
            d_y + d_rho * along_z * z * slope,
            d_rho * along_z * inverse,
        )
        if self.nozzle is not None:
            normal = _with_nozzle(self.nozzle, x, y, z, normal)
        length = np.sqrt(sum(component**2 for component in normal)) + 1e-9
        return normal[0] / length, normal[1] / length, normal[2] / length

    def on_nozzle(self, x: Array, y: Array, z: Array) -> Array:
        """Which points belong to the nozzle."""
        if self.nozzle is None:
            return np.zeros(x.shape, bool)
        return capsule_distance(self.nozzle, x, y, z) < 0.004


def capsule_distance(capsule: Capsule, x: Array, y: Array, z: Array) -> Array:
    """Signed distance of points to a capsule."""
    offset = _from_axis(capsule, x, y, z)
    return np.asarray(np.sqrt(sum(part**2 for part in offset)) - capsule.radius)


def _from_axis(capsule: Capsule, x: Array, y: Array, z: Array) -> tuple[Array, Array, Array]:
    start, end = np.array(capsule.start), np.array(capsule.end)
    axis = (end - start).astype(np.float32)
    px, py, pz = x - capsule.start[0], y - capsule.start[1], z - capsule.start[2]
    share = np.clip((px * axis[0] + py * axis[1] + pz * axis[2]) / (axis @ axis), 0, 1)
    return px - share * axis[0], py - share * axis[1], pz - share * axis[2]


def _with_nozzle(
    nozzle: Capsule, x: Array, y: Array, z: Array, normal: tuple[Array, Array, Array]
) -> tuple[Array, Array, Array]:
    offset = _from_axis(nozzle, x, y, z)
    distance = np.sqrt(sum(part**2 for part in offset))
    near = distance - nozzle.radius < 0.004
    return (
        np.where(near, offset[0] / nozzle.radius, normal[0]),
        np.where(near, offset[1] / nozzle.radius, normal[1]),
        np.where(near, offset[2] / nozzle.radius, normal[2]),
    )


def sampled(table: Array, column: Array, row: Array) -> Array:
    """Values of a table (with or without channels) between its samples, one per point."""
    num_points, width = len(column), 1024  # OpenCV maps no side beyond 32767
    where = np.zeros((2, -(-num_points // width) * width), np.float32)
    where[0, :num_points], where[1, :num_points] = column, row
    columns, rows = where[0].reshape(-1, width), where[1].reshape(-1, width)
    values = cv2.remap(table, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(values).reshape(-1, *table.shape[2:])[:num_points]


def _look_up(table: Array, rho: Array, y: Array) -> Array:
    return sampled(table, rho * TABLE_SCALE, (y + TABLE_PAD) * TABLE_SCALE)


def _distance_table(solid: Solid) -> tuple[Array, Array, Array]:
    """Signed distance to the rounded profile, and its slopes along radius and y."""
    inset = _inset(np.array(solid.profile, np.float64), solid.rounding)
    rho, y = np.meshgrid(
        np.arange(0, solid.radius + TABLE_PAD, 1 / TABLE_SCALE),
        np.arange(-TABLE_PAD, 1 + TABLE_PAD, 1 / TABLE_SCALE),
    )
    nearest = np.full(rho.shape, np.inf)
    inside = np.zeros(rho.shape, bool)
    closed = np.vstack([inset, inset[:1]])
    for (x0, y0), (x1, y1) in pairwise(closed):
        on_axis = x0 < 1e-9 and x1 < 1e-9
        dx, dy = x1 - x0, y1 - y0
        length = max(dx * dx + dy * dy, 1e-12)
        share = np.clip(((rho - x0) * dx + (y - y0) * dy) / length, 0, 1)
        if not on_axis:
            distance = np.hypot(rho - x0 - share * dx, y - y0 - share * dy)
            nearest = np.minimum(nearest, distance)
        crosses = (y0 > y) != (y1 > y)
        if dy != 0:
            inside ^= crosses & (rho < x0 + (y - y0) / dy * dx)
    signed = (np.where(inside, -nearest, nearest) - solid.rounding).astype(np.float32)
    slope_y, slope_rho = np.gradient(signed, 1 / TABLE_SCALE)
    return signed, np.asarray(slope_rho, np.float32), np.asarray(slope_y, np.float32)


def _inset(profile: Array, amount: float) -> Array:
    """The profile moved inwards; rounding moves it out again with round corners."""
    radius = np.where(profile[:, 0] > 0, np.maximum(profile[:, 0] - amount, 0), 0)
    middle = (profile[:, 1].min() + profile[:, 1].max()) / 2
    y = np.where(profile[:, 1] < middle, profile[:, 1] + amount, profile[:, 1] - amount)
    inner = (profile[:, 1] > profile[:, 1].min()) & (profile[:, 1] < profile[:, 1].max())
    return np.stack([radius, np.where(inner, profile[:, 1], y)], axis=1)
