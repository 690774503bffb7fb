"""The solids of cosmetic packs: a profile turned around an axis with a round, oval or square section.

Lengths are relative to the pack's height: `y` runs from 0 (base) to 1 (top), the radius is the
half-width at `y`. Distances are looked up in a table of the profile's signed distance.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Float32

from product1m.data.sample.catalogue import Product, Shape

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
        return larger * ((a / larger) ** n + (b / larger) ** n) ** (1 / n), inverse, slope

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """A distance that never oversteps, from points to the solid."""
        rho, inverse, _ = self.section_radius(x, y, z)
        distance = _look_up(self.table[0], rho, y) / np.maximum(inverse, 1.0)
        if self.nozzle is not None:
            distance = np.minimum(distance, capsule_distance(self.nozzle, x, y, z))
        return distance

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
    """Values of a table (with channels or without) between its samples, one a point."""
    num_points, width = len(column), 1024  # OpenCV maps no side beyond 32767
    where = np.zeros((2, -(-num_points // width) * width), np.float32)
    where[0, :num_points], where[1, :num_points] = column, row
    where = where.reshape(2, -1, width)
    found = cv2.remap(table, where[0], where[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found).reshape(-1, *table.shape[2:])[:num_points]


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
    for (x0, y0), (x1, y1) in zip(closed[:-1], closed[1:], strict=True):
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
    return signed, slope_rho.astype(np.float32), slope_y.astype(np.float32)


def _inset(profile: Array, amount: float) -> Array:
    """The profile moved inwards; rounding moves it out again with round corners."""
    radius = np.where(profile[:, 0] > 0, np.maximum(profile[:, 0] - amount, 0), 0)
    middle = (profile[:, 1].min() + profile[:, 1].max()) / 2
    y = np.where(profile[:, 1] < middle, profile[:, 1] + amount, profile[:, 1] - amount)
    inner = (profile[:, 1] > profile[:, 1].min()) & (profile[:, 1] < profile[:, 1].max())
    return np.stack([radius, np.where(inner, profile[:, 1], y)], axis=1)


def _shoulder(
    radius: float, neck: float, start: float, end: float, steps: int = 9
) -> list[tuple[float, float]]:
    angles = np.linspace(0, np.pi / 2, steps)
    return [
        (neck + (radius - neck) * float(np.cos(a)), start + (end - start) * float(np.sin(a)))
        for a in angles
    ]


def _bottle(product: Product) -> Solid:
    r = 0.165 if product.line.body_material == "frosted" else 0.185
    neck, cap = r * 0.5, r * 0.62
    top = 0.99
    return Solid(
        profile=(
            (0, 0),
            (r, 0),
            *_shoulder(r, neck, 0.66, 0.745),
            (neck, 0.755),
            (cap, 0.757),
            (cap, top),
            (0, top),
        ),
        parts=(Part(0.75, "body"), Part(0.775, "collar"), Part(2, "cap")),
        label=(0.06, 0.62),
    )


def _flacon(product: Product) -> Solid:
    tall = product.category != "foundation"
    r = 0.155 if tall else 0.2
    cap = r * 0.72
    shoulder = 0.7 if tall else 0.6
    return Solid(
        profile=(
            (0, 0),
            (r, 0),
            *_shoulder(r, r * 0.5, shoulder, shoulder + 0.03, 5),
            (r * 0.5, shoulder + 0.045),
            (cap, shoulder + 0.047),
            (cap, 1),
            (0, 1),
        ),
        parts=(Part(shoulder + 0.04, "body"), Part(2, "cap")),
        squareness=7.0,
        depth=(0.62, 0.62),
        rounding=0.012,
        label=(0.06, shoulder - 0.04),
    )


def _pump(product: Product) -> Solid:
    big = product.height_cm > 17.2
    r = 0.2 if big else 0.16
    shoulder = 0.68 if big else 0.64
    return Solid(
        profile=(
            (0, 0),
            (r, 0),
            *_shoulder(r, r * 0.42, shoulder, shoulder + 0.075),
            (r * 0.45, shoulder + 0.085),
            (r * 0.5, shoulder + 0.087),
            (r * 0.5, shoulder + 0.17),
            (r * 0.2, shoulder + 0.172),
            (r * 0.2, 0.94),
            (r * 0.4, 0.942),
            (r * 0.4, 0.995),
            (0, 0.995),
        ),
        parts=(Part(shoulder + 0.08, "body"), Part(shoulder + 0.105, "collar"), Part(2, "cap")),
        label=(0.06, shoulder - 0.03),
        nozzle=Capsule((0, 0.968, 0), (r * 1.15, 0.955, r * 0.25), 0.021),
        rounding=0.006,
    )


def _dropper(product: Product) -> Solid:
    r = 0.165 if product.size != "50ml" or product.category == "oil" else 0.18
    return Solid(
        profile=(
            (0, 0),
            (r, 0),
            *_shoulder(r, r * 0.45, 0.52, 0.585),
            (r * 0.48, 0.6),
            (r * 0.6, 0.602),
            (r * 0.6, 0.74),
            (r * 0.36, 0.745),
            (r * 0.4, 0.82),
            (r * 0.36, 0.93),
            (r * 0.25, 0.98),
            (0, 0.998),
        ),
        parts=(Part(0.59, "body"), Part(0.742, "cap"), Part(2, "bulb")),
        label=(0.07, 0.48),
    )


def _jar(product: Product) -> Solid:
    r = {"pads": 0.46, "eye": 0.58}.get(product.category, 0.66)
    split = 0.66 if product.category == "pads" else 0.56
    return Solid(
        profile=(
            (0, 0),
            (r * 0.94, 0),
            (r, 0.1),
            (r, split),
            (r * 0.93, split + 0.005),
            (r * 0.93, split + 0.03),
            (r * 1.0, split + 0.032),
            (r * 1.0, 0.97),
            (r * 0.97, 1.0),
            (0, 1.0),
        ),
        parts=(Part(split + 0.02, "body"), Part(2, "cap")),
        rounding=0.03,
        label=(0.1, split - 0.04),
    )


def _tube(product: Product) -> Solid:
    slim = product.height_cm < 10
    r = 0.125 if slim else (0.165 if product.height_cm > 16.5 else 0.185)
    cap = 0.2 if slim else 0.16
    return Solid(
        profile=(
            (0, 0),
            (r * 0.86, 0),
            (r * 0.88, cap),
            (r * 0.8, cap + 0.005),
            (r * 0.8, cap + 0.012),
            (r * 0.97, cap + 0.03),
            (r, 0.6),
            (r * 1.04, 1.0),
            (0, 1.0),
        ),
        parts=(Part(cap + 0.01, "cap"), Part(0.955, "body"), Part(2, "crimp")),
        depth=(0.95, 0.14),
        rounding=0.006,
        label=(cap + 0.06, 0.93),
    )


def _box(_: Product) -> Solid:
    return Solid(
        profile=((0, 0), (0.33, 0), (0.33, 1), (0, 1)),
        parts=(Part(2, "body"),),
        squareness=24.0,
        depth=(0.34, 0.34),
        rounding=0.006,
        label=(0.03, 0.97),
    )


def _spray(product: Product) -> Solid:
    r = 0.135 if product.line.body_material == "plastic" else 0.155
    return Solid(
        profile=(
            (0, 0),
            (r, 0),
            *_shoulder(r, r * 0.86, 0.74, 0.775, 6),
            (r * 0.8, 0.78),
            (r * 0.93, 0.784),
            (r * 0.9, 0.97),
            (r * 0.8, 1.0),
            (0, 1.0),
        ),
        parts=(Part(0.78, "body"), Part(0.8, "collar"), Part(2, "cap")),
        label=(0.06, 0.71),
    )


def _airless(_: Product) -> Solid:
    r = 0.135
    return Solid(
        profile=(
            (0, 0),
            (r, 0),
            (r, 0.66),
            (r * 0.9, 0.665),
            (r * 0.9, 0.69),
            (r, 0.695),
            (r, 0.985),
            (r * 0.9, 1.0),
            (0, 1.0),
        ),
        parts=(Part(0.665, "body"), Part(0.695, "collar"), Part(2, "cap")),
        label=(0.06, 0.62),
    )


def _lipstick(product: Product) -> Solid:
    if product.noun == "唇釉":
        r = 0.115
        return Solid(
            profile=((0, 0), (r, 0), (r, 0.56), (r * 0.8, 0.565), (r * 0.8, 0.58), (r, 0.585),
                     (r, 1), (0, 1)),
            parts=(Part(0.57, "shade"), Part(2, "cap")),
            squareness=3.2,
            label=(0.06, 0.5),
        )  # fmt: skip
    r = 0.13
    return Solid(
        profile=((0, 0), (r, 0), (r, 0.4), (r * 0.82, 0.402), (r * 0.82, 0.62), (r * 0.66, 0.622),
                 (r * 0.66, 0.86), (r * 0.5, 0.95), (r * 0.2, 1.0), (0, 1.0)),
        parts=(Part(0.401, "body"), Part(0.621, "cap"), Part(2, "shade")),
        squareness=3.0,
        label=(0.05, 0.37),
    )  # fmt: skip


def _compact(product: Product) -> Solid:
    r = 1.6 if product.height_cm < 2.6 else 1.35
    return Solid(
        profile=((0, 0), (r * 0.96, 0), (r, 0.15), (r, 0.47), (r * 0.985, 0.49), (r * 0.985, 0.53),
                 (r, 0.55), (r, 0.85), (r * 0.95, 1), (0, 1)),
        parts=(Part(0.5, "cap"), Part(2, "body")),
        rounding=0.1,
        label=(0.1, 0.4),
    )  # fmt: skip


_BUILDERS: dict[Shape, Callable[[Product], Solid]] = {
    "bottle": _bottle,
    "flacon": _flacon,
    "pump": _pump,
    "dropper": _dropper,
    "jar": _jar,
    "tube": _tube,
    "box": _box,
    "spray": _spray,
    "lipstick": _lipstick,
    "compact": _compact,
    "airless": _airless,
}


@lru_cache(maxsize=None)
def solid_of(product: Product) -> Solid:
    """The pack of a product."""
    return _BUILDERS[product.shape](product)


@lru_cache(maxsize=None)
def carton_of(product: Product) -> Solid:
    """The folding box a product is sold in, as tall as the product needs."""
    pack = solid_of(product)
    half_width = min(0.52, pack.radius * 1.12 + 0.02)
    return Solid(
        profile=((0, 0), (half_width, 0), (half_width, 1), (0, 1)),
        parts=(Part(2, "body"),),
        squareness=24.0,
        depth=(0.95, 0.95) if half_width < 0.4 else (0.8, 0.8),
        rounding=0.006,
        label=(0.03, 0.97),
    )
