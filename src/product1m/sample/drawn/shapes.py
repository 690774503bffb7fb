"""The packs of the catalogue as solids, one builder per shape."""

from collections.abc import Callable
from functools import cache

import numpy as np

from product1m.sample.drawn.catalogue import Product, Shape
from product1m.sample.drawn.solids import Capsule, Part, Solid


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


@cache
def solid_of(product: Product) -> Solid:
    """The pack of a product."""
    return _BUILDERS[product.shape](product)


@cache
def carton_of(product: Product) -> Solid:
    """The folding box a product is sold in, as tall as the product."""
    pack = solid_of(product)
    half_width = pack.radius * 1.06 + 0.02
    return Solid(
        profile=((0, 0), (half_width, 0), (half_width, 1), (0, 1)),
        parts=(Part(2, "body"),),
        squareness=24.0,
        depth=(0.95, 0.95) if half_width < 0.4 else (0.8, 0.8),
        rounding=0.006,
        label=(0.03, 0.97),
    )
