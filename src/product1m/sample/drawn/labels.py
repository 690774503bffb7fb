"""The print on a pack: each brand's layout; `packs` wraps it around the pack."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from product1m.sample.drawn.catalogue import Layout, Product
from product1m.sample.drawn.printing import Print, Sheet, mixed
from product1m.sample.drawn.solids import Solid

LONG_SIDE_PX = 520
"""Texture samples along a pack's longer side (ours)."""


@dataclass(frozen=True)
class Area:
    """Where to print: `top` and `bottom` in sheet heights, `tall` relative to the panel's width."""

    top: float
    bottom: float
    tall: float

    def at(self, share: float) -> float:
        """The y of a share of the area, from its top."""
        return self.top + (self.bottom - self.top) * share


def _centered(sheet: Sheet, product: Product, area: Area) -> None:
    ink, line = product.line.ink, product.line
    sheet.ring(area.at(0.86), area.at(0.93), product.accent)
    sheet.ring(area.at(0.945), area.at(0.96), line.cap, foil=True)
    sheet.text(product.brand.name, 0, area.at(0.16), "serif", 0.24, line.cap, foil=True)
    sheet.box(-0.22, area.at(0.27), 0.22, area.at(0.28), line.cap, foil=True)
    sheet.text(line.latin, 0, area.at(0.36), "serif", 0.13, ink)
    for row, text in enumerate(product.print):
        sheet.text(text, 0, area.at(0.5 + 0.11 * row), "serif", 0.11 - 0.02 * row, ink)
    if area.tall > 0.9:
        sheet.text(product.brand.slogan, 0, area.at(0.72), "serif", 0.055, ink)
        sheet.text(product.size, 0, area.at(0.79), "serif", 0.065, ink)


def _minimal(sheet: Sheet, product: Product, area: Area) -> None:
    ink, accent = product.line.ink, product.accent
    for step in range(14):
        shade = mixed(product.body, accent, step / 13)
        sheet.ring(area.at(0.66 + 0.026 * step), area.at(0.66 + 0.026 * (step + 1)), shade)
    sheet.disc(0.0, area.at(0.2), 0.11, accent)
    sheet.polygon([(-0.09, area.at(0.18)), (0.09, area.at(0.18)), (0, area.at(0.03))], accent)
    sheet.text(product.brand.name.lower(), -0.44, area.at(0.4), "light", 0.2, ink, anchor="lm")
    for row, text in enumerate((product.line.latin.lower(), *product.print)):
        sheet.text(text, -0.44, area.at(0.5 + 0.075 * row), "light", 0.12, ink, anchor="lm")
    sheet.text(product.size, -0.44, area.at(0.93), "light", 0.08, "#ffffff", anchor="lm")


def _sprig(sheet: Sheet, product: Product, y0: float, y1: float, x: float = 0.0) -> None:
    for step in range(5):
        y = y0 + (y1 - y0) * step / 5
        rise = (y1 - y0) / 5
        for side in (-1, 1):
            tip = (x + side * 0.2, y - rise * 0.5)
            sheet.polygon(
                [(x, y + rise), (x + side * 0.12, y + rise * 0.6), tip, (x + side * 0.06, y)],
                product.accent,
            )
    sheet.box(x - 0.012, y0, x + 0.012, y1 + 0.02, product.accent)


def _botanical(sheet: Sheet, product: Product, area: Area) -> None:
    ink = product.line.ink
    sheet.box(-0.56, area.at(0.02), 0.56, area.at(0.98), "#efe6d2")
    sheet.box(-0.53, area.at(0.045), 0.53, area.at(0.055), ink)
    sheet.box(-0.53, area.at(0.945), 0.53, area.at(0.955), ink)
    _sprig(sheet, product, area.at(0.12), area.at(0.4))
    sheet.text(product.brand.name, 0, area.at(0.52), "mono", 0.17, ink)
    sheet.text(product.line.latin, 0, area.at(0.61), "mono", 0.09, ink)
    sheet.box(-0.56, area.at(0.67), 0.56, area.at(0.83), product.accent)
    for row, text in enumerate(product.print):
        sheet.text(text, 0, area.at(0.715 + 0.075 * row), "mono", 0.1, "#f6f0e2")
    sheet.text(product.size, 0, area.at(0.89), "mono", 0.08, ink)


def _block(sheet: Sheet, product: Product, area: Area) -> None:
    ink, accent = product.line.ink, product.accent
    sheet.polygon(
        [(-2, area.at(0.72)), (-2, area.at(0.94)), (2, area.at(0.66)), (2, area.at(0.44))], accent
    )
    sheet.text(product.brand.name, 0, area.at(0.13), "condensed", 0.26, ink)
    sheet.text(product.brand.slogan, 0, area.at(0.23), "condensed", 0.07, accent)
    sheet.text(product.line.latin, 0, area.at(0.38), "condensed", 0.2, ink)
    sheet.text(product.print[0], 0, area.at(0.66), "condensed", 0.14, product.body)
    sheet.text(product.print[1], 0, area.at(0.75), "condensed", 0.1, product.body)
    sheet.text(product.size, 0, area.at(0.93), "condensed", 0.12, ink)


def _band(sheet: Sheet, product: Product, area: Area) -> None:
    ink, accent = product.line.ink, product.accent
    sheet.ring(area.at(0.3), area.at(0.52), accent)
    sheet.ring(area.at(0.55), area.at(0.575), product.line.accent)
    sheet.text(product.brand.name, 0, area.at(0.13), "sans", 0.2, ink)
    sheet.text(product.brand.slogan, 0, area.at(0.215), "light", 0.055, ink)
    sheet.text(product.line.latin, 0, area.at(0.37), "sans", 0.15, "#ffffff")
    sheet.text(product.print[0], 0, area.at(0.46), "light", 0.1, "#ffffff")
    sheet.text(product.print[1], 0, area.at(0.66), "sans", 0.16, accent)
    sheet.box(-0.02, area.at(0.74), 0.02, area.at(0.84), accent)
    sheet.box(-0.07, area.at(0.78), 0.07, area.at(0.8), accent)
    sheet.text(product.size, 0, area.at(0.92), "light", 0.08, ink)


def _vertical(sheet: Sheet, product: Product, area: Area) -> None:
    ink, accent = product.line.ink, product.accent
    sheet.disc(0.2, area.at(0.2), 0.2, accent)
    sheet.disc(0.29, area.at(0.18), 0.18, product.body)
    if area.tall > 0.9:
        sheet.upright_text(product.brand.name, -0.28, area.at(0.5), "roman", 0.26, ink, 0.62)
        for row, text in enumerate((product.line.latin, *product.print, product.size)):
            sheet.text(text, -0.08, area.at(0.6 + 0.08 * row), "roman", 0.11, ink, anchor="lm",
                       widest=0.55)  # fmt: skip
    else:
        sheet.text(product.brand.name, 0, area.at(0.45), "roman", 0.18, ink)
        sheet.text(" ".join(product.print), 0, area.at(0.75), "roman", 0.1, ink)
    sheet.ring(area.at(0.965), area.at(0.985), accent)


def _framed(sheet: Sheet, product: Product, area: Area) -> None:
    gold = product.line.ink
    sheet.frame(-0.46, area.at(0.03), 0.46, area.at(0.97), gold)
    sheet.frame(-0.41, area.at(0.06), 0.41, area.at(0.94), gold, width=1)
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        reach = 0.13 * sheet.panel_px / sheet.height
        sheet.disc(0.13 * float(np.cos(angle)), area.at(0.27) + reach * float(np.sin(angle)),
                   0.075, gold, foil=True, line=2)  # fmt: skip
    sheet.disc(0, area.at(0.27), 0.07, product.accent)
    sheet.text(product.brand.name, 0, area.at(0.54), "display", 0.2, gold, foil=True, widest=0.78)
    sheet.text(product.line.latin, 0, area.at(0.65), "display", 0.12, gold, widest=0.78)
    for row, text in enumerate(product.print):
        sheet.text(text, 0, area.at(0.745 + 0.075 * row), "roman", 0.11, gold, widest=0.74)
    if area.tall > 0.9:
        sheet.text(product.size, 0, area.at(0.9), "roman", 0.08, gold)


def _arc(sheet: Sheet, product: Product, area: Area) -> None:
    ink, accent = product.line.ink, product.accent
    flat = sheet.panel_px / sheet.height
    center = area.at(0.99)
    for radius, color in ((0.52, accent), (0.44, "#fffaf0"), (0.4, accent)):
        sheet.disc(0, center, radius, color)
    for angle in np.linspace(np.pi, 2 * np.pi, 7):
        x, y = 0.4 * float(np.cos(angle)), 0.4 * float(np.sin(angle)) * flat
        side = 0.02 * float(np.sin(angle)), 0.02 * float(np.cos(angle)) * flat
        sheet.polygon([(0, center), (x - side[0], center + y + side[1]),
                       (x + side[0], center + y - side[1])], "#fffaf0")  # fmt: skip
    sheet.text(product.brand.name, 0, area.at(0.12), "bold", 0.24, ink)
    sheet.text(product.line.latin, 0, area.at(0.24), "bold", 0.13, accent)
    for row, text in enumerate(product.print):
        sheet.text(text, 0, area.at(0.36 + 0.085 * row), "bold", 0.12, ink)
    sheet.text(product.size, 0, area.at(0.53), "light", 0.08, ink)


def _low(sheet: Sheet, product: Product, area: Area) -> None:
    """A small version of the house style, for jars: the layout's mark and three lines of text."""
    layout, line = product.brand.layout, product.line
    _low_mark(sheet, product, area)
    foil = layout in ("centered", "framed")
    name = product.brand.name.lower() if layout == "minimal" else product.brand.name
    ink = "#ffffff" if layout == "band" else line.ink
    style = product.brand.font
    sheet.text(
        name, 0.03, area.at(0.26), style, 0.3, line.cap if foil else line.ink, foil=foil, widest=1.2
    )
    sheet.text(line.latin, 0.03, area.at(0.5), style, 0.13, line.ink, widest=0.9)
    sheet.text(" ".join(product.print), 0.03, area.at(0.68), style, 0.15, ink, widest=1.1)


def _low_mark(sheet: Sheet, product: Product, area: Area) -> None:
    layout, ink, accent = product.brand.layout, product.line.ink, product.accent
    if layout == "botanical":
        sheet.box(-0.95, area.at(0), 0.95, area.at(1), "#efe6d2")
        sheet.box(-0.95, area.at(0.82), 0.95, area.at(1), accent)
        _sprig(sheet, product, area.at(0.12), area.at(0.66), x=-0.72)
    elif layout == "band":
        sheet.ring(area.at(0.5), area.at(0.86), accent)
        sheet.ring(area.at(0.9), area.at(0.95), product.line.accent)
    elif layout == "block":
        slant = [(-3.0, 1.0), (-3.0, 0.75), (3.0, 0.5), (3.0, 0.75)]
        sheet.polygon([(x, area.at(y)) for x, y in slant], accent)
    elif layout == "framed":
        sheet.frame(-0.95, area.at(0.03), 0.95, area.at(0.97), ink)
        sheet.disc(-0.72, area.at(0.5), 0.13, ink, foil=True, line=2)
        sheet.disc(-0.72, area.at(0.5), 0.07, accent)
    elif layout == "arc":
        sheet.disc(0.62, area.at(0.95), 0.42, accent)
        sheet.disc(0.62, area.at(0.95), 0.34, "#fffaf0", line=4)
    elif layout == "vertical":
        sheet.disc(0.68, area.at(0.4), 0.2, accent)
        sheet.disc(0.77, area.at(0.34), 0.18, product.body)
    else:
        sheet.ring(area.at(0.84), area.at(0.97), accent)


_LAYOUTS: dict[Layout, Callable[[Sheet, Product, Area], None]] = {
    "centered": _centered,
    "minimal": _minimal,
    "botanical": _botanical,
    "block": _block,
    "band": _band,
    "vertical": _vertical,
    "framed": _framed,
    "arc": _arc,
}


def print_of(product: Product, solid: Solid, perimeter: float) -> Print:
    """The print of a pack whose widest section measures `perimeter` pack heights around."""
    scale = LONG_SIDE_PX / max(1.0, 2 * solid.radius)
    width, height = round(perimeter * scale), round(scale)
    panel = solid.radius * scale * (1.85 if solid.squareness > 4 else 1.55)
    low, high = solid.label
    panel = min(panel, 1.15 * (high - low) * scale)  # a low jar has room for small print only
    sheet = Sheet(width, height, panel)
    area = Area(1 - high, 1 - low, (high - low) * scale / panel)
    layout = _LAYOUTS[product.brand.layout] if area.tall > 1.2 else _low
    layout(sheet, product, area)
    _small_print(sheet, product, area)
    color, cover, foil = sheet.planes()
    return Print(color, cover, foil, _lid(product))


def _small_print(sheet: Sheet, product: Product, area: Area) -> None:
    """Rows of illegible text on the back."""
    half = sheet.width / sheet.panel_px / 2
    for row in range(9):
        y = area.at(0.2 + 0.065 * row)
        long = 0.3 + 0.1 * ((row * 7) % 3)
        for side in (-1, 1):
            inner, outer = side * (half - long), side * half
            sheet.box(min(inner, outer), y, max(inner, outer), y + 0.008, product.line.ink)


def _lid(product: Product, side_px: int = 200) -> Float32[np.ndarray, "S S 2"]:
    sheet = Sheet(side_px, side_px, side_px * 0.8)
    sheet.text(product.brand.name, 0, 0.5, "serif", 0.2, "#ffffff", foil=True, widest=0.85)
    sheet.disc(0, 0.5, 0.52, "#ffffff", foil=True, line=2)
    if product.shape == "compact":
        sheet.disc(0, 0.5, 0.47, "#ffffff", foil=True, line=1)
        sheet.text(product.line.latin, 0, 0.63, "serif", 0.1, "#ffffff", foil=True)
    _, cover, foil = sheet.planes()
    return np.stack([cover, foil], axis=2)
