"""Draw print into color, cover and foil planes at once, with fonts that come with matplotlib.

Only Latin script is drawn, so that no system font matters.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from matplotlib import get_data_path
from PIL import Image, ImageColor, ImageDraw, ImageFont

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

Ink = int | tuple[int, int, int]


@lru_cache(maxsize=512)
def font(style: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of matplotlib's, by style."""
    path = Path(get_data_path()) / "fonts" / "ttf" / _FONT_FILES[style]
    return ImageFont.truetype(str(path), max(size, 4), layout_engine=ImageFont.Layout.BASIC)


def rgb(color: str) -> tuple[int, int, int]:
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
        self._planes = tuple(Image.new(mode, (width, height)) for mode in ("RGB", "L", "L"))
        self._draws = tuple(ImageDraw.Draw(plane) for plane in self._planes)

    def _inks(self, color: str, foil: bool) -> tuple[Ink, Ink, Ink]:
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
        """A line of text, `size` in panel widths; smaller if it would be too wide."""
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
