"""What is printed on a pack: each brand's layout, wrapped around the pack by `packaging`.

Only Latin script is drawn, in fonts that come with matplotlib, so that no system font matters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from matplotlib import get_data_path
from PIL import Image, ImageColor, ImageDraw, ImageFont

from product1m.data.sample.catalogue import Layout, Product
from product1m.data.sample.shapes import Solid

LONG_SIDE_PX = 520
"""Texture samples along a pack's longer side (ours)."""

_FONT_FILES = {
    "serif": "DejaVuSerif.ttf",
    "light": "DejaVuSans.ttf",
    "mono": "DejaVuSansMono-Bold.ttf",
    "condensed": "DejaVuSans-Bold.ttf",
    "sans": "DejaVuSans-Bold.ttf",
    "roman": "STIXGeneral.ttf",
    "display": "STIXGeneralBol.ttf",
    "bold": "DejaVuSans-BoldOblique.ttf",
}

Color = tuple[int, int, int]


@lru_cache(maxsize=512)
def font(style: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's, by style."""
    path = Path(get_data_path()) / "fonts" / "ttf" / _FONT_FILES[style]
    return ImageFont.truetype(str(path), max(size, 4), layout_engine=ImageFont.Layout.BASIC)


def rgb(color: str) -> Color:
    """A hex color as numbers from 0 to 255."""
    red, green, blue = ImageColor.getrgb(color)[:3]
    return red, green, blue


def mixed(first: str, second: str, share: float) -> str:
    """`first` with a share of `second` in it, as hex."""
    blend = [round(a + (b - a) * share) for a, b in zip(rgb(first), rgb(second), strict=True)]
    return "#{:02x}{:02x}{:02x}".format(*blend)


@dataclass(frozen=True)
class Print:
    """A texture: `x` along the section's perimeter, front in the middle, `y` downwards."""

    color: Float32[np.ndarray, "H W 3"]
    cover: Float32[np.ndarray, "H W"]
    """1 where print hides the material below."""
    foil: Float32[np.ndarray, "H W"]
    """1 where print is metal foil."""
    lid: Float32[np.ndarray, "S S 2"]
    """Print of the top seen from above: cover, and how much of it is foil."""


class Sheet:
    """Draws into the color, cover and foil planes of a print at once."""

    def __init__(self, width: int, height: int, panel_px: float) -> None:
        self.width, self.height, self.panel_px = width, height, panel_px
        self._planes = (
            Image.new("RGB", (width, height)),
            Image.new("L", (width, height)),
            Image.new("L", (width, height)),
        )
        self._draws = tuple(ImageDraw.Draw(plane) for plane in self._planes)

    def _inks(self, color: str, foil: bool) -> tuple[Color, int, int]:
        return rgb(color), 255, 255 if foil else 0

    def box(self, x0: float, y0: float, x1: float, y1: float, color: str, **options: bool) -> None:
        """A filled rectangle; x is 0 at the front's center, in panel widths, y is 0 at the top."""
        for draw, ink in zip(
            self._draws, self._inks(color, options.get("foil", False)), strict=True
        ):
            draw.rectangle((self._x(x0), self._y(y0), self._x(x1), self._y(y1)), fill=ink)

    def frame(self, x0: float, y0: float, x1: float, y1: float, color: str, width: int = 3) -> None:
        """A foil frame."""
        for draw, ink in zip(self._draws, self._inks(color, True), strict=True):
            draw.rectangle(
                (self._x(x0), self._y(y0), self._x(x1), self._y(y1)), outline=ink, width=width
            )

    def ring(self, y0: float, y1: float, color: str, foil: bool = False) -> None:
        """A stripe all around the pack."""
        for draw, ink in zip(self._draws, self._inks(color, foil), strict=True):
            draw.rectangle((0, self._y(y0), self.width, self._y(y1)), fill=ink)

    def disc(
        self, x: float, y: float, radius: float, color: str, foil: bool = False, line: int = 0
    ) -> None:
        """A circle, filled unless `line` gives an outline's width; radius in panel widths."""
        r = radius * self.panel_px
        cx, cy = self._x(x), self._y(y)
        for draw, ink in zip(self._draws, self._inks(color, foil), strict=True):
            if line:
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), outline=ink, width=line)
            else:
                draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=ink)

    def polygon(self, points: list[tuple[float, float]], color: str, foil: bool = False) -> None:
        """A filled polygon of panel coordinates."""
        flat = [(self._x(x), self._y(y)) for x, y in points]
        for draw, ink in zip(self._draws, self._inks(color, foil), strict=True):
            draw.polygon(flat, fill=ink)

    def text(
        self,
        text: str,
        x: float,
        y: float,
        style: str,
        size: float,
        color: str,
        *,
        foil: bool = False,
        anchor: str = "mm",
        widest: float = 0.96,
    ) -> None:
        """A line of text, `size` in panel widths, made smaller where it would be too wide."""
        px = round(size * self.panel_px)
        limit = widest * self.panel_px
        length = font(style, px).getlength(text)
        chosen = font(style, int(px * min(1.0, limit / max(length, 1))))
        for draw, ink in zip(self._draws, self._inks(color, foil), strict=True):
            draw.text((self._x(x), self._y(y)), text, font=chosen, fill=ink, anchor=anchor)

    def upright_text(
        self, text: str, x: float, y: float, style: str, size: float, color: str, longest: float
    ) -> None:
        """A line of text that reads from bottom to top, centered."""
        px = round(size * self.panel_px)
        length = font(style, px).getlength(text)
        chosen = font(style, int(px * min(1.0, longest * self.height / max(length, 1))))
        left, top, right, bottom = chosen.getbbox(text, anchor="ls")
        stencil = Image.new("L", (int(right - left) + 4, int(bottom - top) + 4))
        ImageDraw.Draw(stencil).text((2 - left, 2 - top), text, font=chosen, fill=255, anchor="ls")
        stencil = stencil.transpose(Image.Transpose.ROTATE_90)
        corner = (
            round(self._x(x) - stencil.width / 2),
            round(self._y(y) - stencil.height / 2),
        )
        for plane, ink in zip(self._planes, self._inks(color, False), strict=True):
            plane.paste(ink, corner, stencil)

    def planes(self) -> tuple[Float32[np.ndarray, "..."], ...]:
        """Color, cover, foil from 0 to 1."""
        return tuple(np.asarray(plane, np.float32) / 255 for plane in self._planes)

    def _x(self, x: float) -> float:
        return self.width / 2 + x * self.panel_px

    def _y(self, y: float) -> float:
        return y * self.height


@dataclass(frozen=True)
class Area:
    """Where a layout may print: `top` and `bottom` in sheet heights, `tall` relative to its width."""

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


def _sprig(sheet: Sheet, product: Product, y0: float, y1: float) -> None:
    for step in range(5):
        y = y0 + (y1 - y0) * step / 5
        rise = (y1 - y0) / 5
        for side in (-1, 1):
            tip = (side * 0.2, y - rise * 0.5)
            sheet.polygon(
                [(0, y + rise), (side * 0.12, y + rise * 0.6), tip, (side * 0.06, y)],
                product.accent,
            )
    sheet.box(-0.012, y0, 0.012, y1 + 0.02, product.accent)


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
    _LAYOUTS[product.brand.layout](sheet, product, area)
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
