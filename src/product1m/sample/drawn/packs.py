"""Renders packs as sprites: sphere tracing of the solid, print, materials and studio light."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from product1m.sample.drawn.catalogue import Product
from product1m.sample.drawn.labels import print_of
from product1m.sample.drawn.printing import Print, mixed, rgb
from product1m.sample.drawn.shapes import carton_of, solid_of
from product1m.sample.drawn.solids import Solid, sampled

TRACED_SIDE_PX = 460
"""Rays along a sprite's longer side (ours)."""
SPRITE_SIDE_PX = 350
"""Longer side of a sprite: supersampled by TRACED / SPRITE (ours)."""
NUM_STEPS = 40
"""Maximum number of sphere tracing steps (ours)."""

Array = Float32[np.ndarray, "..."]


@dataclass(frozen=True)
class Shot:
    """Position of the camera and lighting of the studio."""

    yaw_deg: float
    elevation_deg: float
    distance: float
    """From the pack's center, in pack heights (or widths, if larger)."""
    rig: int
    """Index into `RIGS`."""


@dataclass(frozen=True)
class Softbox:
    """A rectangular light at infinity: directions in degrees, seen from the pack."""

    azimuth: float
    elevation: float
    width: float
    height: float
    power: float


RIGS: tuple[tuple[Softbox, ...], ...] = (
    (Softbox(-48, 18, 16, 60, 1.0), Softbox(55, 15, 9, 60, 0.6)),
    (Softbox(50, 25, 20, 50, 1.0), Softbox(-62, 10, 8, 60, 0.45)),
    (Softbox(-28, 30, 10, 45, 1.0), Softbox(28, 30, 10, 45, 0.9)),
    (Softbox(-65, 40, 26, 34, 1.2), Softbox(15, 70, 60, 16, 0.5)),
    (Softbox(10, 62, 70, 24, 1.0), Softbox(-40, 5, 6, 40, 0.35)),
)
"""Light set-ups of sellers' photos (ours)."""


@dataclass(frozen=True)
class Material:
    """How a surface reflects light."""

    gloss: float
    """Strength of the lights' mirror images."""
    blur: float
    """Softness of the mirror images, in degrees."""
    metal: float = 0.0
    glass: float = 0.0
    """1: clear; the middle shows the content, the rim is bright."""
    grain: float = 0.0


MATERIALS: dict[str, Material] = {
    "plastic": Material(0.45, 9),
    "matte": Material(0.12, 26),
    "lacquer": Material(0.8, 4),
    "frosted": Material(0.22, 18, glass=0.35),
    "amber": Material(0.95, 4, glass=0.8),
    "glass": Material(1.0, 3, glass=0.75),
    "gold": Material(1.0, 6, metal=1.0),
    "silver": Material(1.0, 5, metal=1.0),
    "wood": Material(0.1, 25, grain=1.0),
    "rubber": Material(0.15, 20),
    "carton": Material(0.1, 22),
    "wax": Material(0.3, 14),
}


@dataclass(frozen=True)
class Sprite:
    """A rendered pack, cropped to its visible part."""

    pixels: UInt8[np.ndarray, "H W 4"]
    """RGB multiplied by alpha, and alpha."""
    px_per_cm: float


@dataclass(frozen=True)
class _Hits:
    """Rays that hit the pack: positions in its frame and directions, one entry per ray."""

    index: np.ndarray
    position: tuple[Array, Array, Array]
    direction: tuple[Array, Array, Array]


def render_pack(product: Product, view: Shot, *, carton: bool = False) -> Sprite:
    """The standing product, or its folding box."""
    solid = carton_of(product) if carton else solid_of(product)
    size = max(1.0, 2 * solid.radius)
    rows, columns, pitch = _film(solid, view, size)
    hits = _trace(solid, view, rows, columns, pitch, size)
    color, alpha = _shade(product, solid, view, hits, carton)
    canvas = np.zeros((rows * columns, 4), np.float32)
    canvas[hits.index, :3] = color * alpha[:, None]
    canvas[hits.index, 3] = alpha
    image = cv2.GaussianBlur(_cropped(canvas.reshape(rows, columns, 4)), (0, 0), 0.7)
    shrink = SPRITE_SIDE_PX / TRACED_SIDE_PX
    small = cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return Sprite(
        np.clip(small * 255 + 0.5, 0, 255).astype(np.uint8),
        shrink / pitch / product.height_cm,
    )


def _film(solid: Solid, view: Shot, size: float) -> tuple[int, int, float]:
    """Rows and columns of rays, and their pitch in pack heights at the pack's center."""
    tilt = np.deg2rad(view.elevation_deg)
    reach = solid.radius if solid.nozzle is None else max(solid.radius, solid.nozzle.end[0] + 0.03)
    depth = solid.radius * max(solid.depth) * (1.42 if solid.squareness > 4 else 1)
    spread = solid.radius * (1.3 if solid.squareness > 4 else 1)
    half_width = max(spread, reach) * 1.06 + depth * 0.05
    half_height = 0.5 * np.cos(tilt) + depth * abs(np.sin(tilt)) + 0.06 * size
    pitch = 2 * max(half_width, half_height) / TRACED_SIDE_PX
    return int(2 * half_height / pitch) + 2, int(2 * half_width / pitch) + 2, float(pitch)


def _rays(
    view: Shot, rows: int, columns: int, pitch: float, size: float
) -> tuple[tuple[float, float, float], tuple[Array, Array, Array]]:
    tilt, yaw = np.deg2rad(view.elevation_deg), np.deg2rad(view.yaw_deg)
    distance = view.distance * size
    across = (np.arange(columns, dtype=np.float32) - (columns - 1) / 2) * pitch / distance
    down = (np.arange(rows, dtype=np.float32) - (rows - 1) / 2) * pitch / distance
    x, y = np.meshgrid(across, -down)
    length = np.sqrt(1 + x * x + y * y)
    world = (
        x / length,
        (-np.sin(tilt) + y * np.cos(tilt)) / length,
        (-np.cos(tilt) - y * np.sin(tilt)) / length,
    )
    origin = (0.0, 0.5 + distance * np.sin(tilt), distance * np.cos(tilt))
    turned = _turn(world, yaw)
    start = origin[2] * -np.sin(yaw), origin[1], origin[2] * np.cos(yaw)
    return (float(start[0]), float(start[1]), float(start[2])), turned


def _turn(vector: tuple[Array, Array, Array], angle: float) -> tuple[Array, Array, Array]:
    """Turn about the pack's axis."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y, z = vector
    return x * cos - z * sin, y, x * sin + z * cos


def _trace(solid: Solid, view: Shot, rows: int, columns: int, pitch: float, size: float) -> _Hits:
    origin, direction = _rays(view, rows, columns, pitch, size)
    dx, dy, dz = (part.reshape(-1).astype(np.float32) for part in direction)
    index = np.arange(rows * columns)
    far = view.distance * size
    t = np.full(index.shape, far - 1.1 * size, np.float32)
    hits: list[tuple[np.ndarray, Array]] = []
    for step in range(NUM_STEPS):
        x, y, z = origin[0] + t * dx, origin[1] + t * dy, origin[2] + t * dz
        distance = solid.distance(x, y, z)
        t = np.asarray(t + distance * 0.95, np.float32)
        if step % 4 == 3 or step == NUM_STEPS - 1:
            hit = distance < 0.0015
            hits.append((index[hit], t[hit]))
            keep = ~hit & (t < far + 1.1 * size)
            index, t, dx, dy, dz = index[keep], t[keep], dx[keep], dy[keep], dz[keep]
            if not len(index):
                break
    index = np.concatenate([rays for rays, _ in hits])
    t = np.concatenate([lengths for _, lengths in hits])
    ray = tuple(part.reshape(-1)[index].astype(np.float32) for part in direction)
    position = tuple((origin[axis] + t * ray[axis]).astype(np.float32) for axis in range(3))
    return _Hits(index, (position[0], position[1], position[2]), (ray[0], ray[1], ray[2]))


def _cropped(canvas: Float32[np.ndarray, "H W 4"]) -> Float32[np.ndarray, "h w 4"]:
    filled = canvas[:, :, 3] > 0
    ys, xs = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    return canvas[max(ys[0] - 2, 0) : ys[-1] + 3, max(xs[0] - 2, 0) : xs[-1] + 3]


@cache
def _perimeter(squareness: float, depth: float) -> tuple[Array, Array, float]:
    """Angles around the section, the share of the perimeter up to them, the whole perimeter."""
    angle = np.linspace(-np.pi, np.pi, 721)
    x, z = np.sin(angle), np.cos(angle)
    norm = (np.abs(x) ** squareness + np.abs(z) ** squareness) ** (1 / squareness)
    points = np.stack([x / norm, z / norm * depth], axis=1)
    along = np.concatenate([[0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    return angle, along / along[-1], float(along[-1])


@cache
def _printed(product: Product, carton: bool) -> Print:
    solid = carton_of(product) if carton else solid_of(product)
    perimeter = _perimeter(solid.squareness, max(solid.depth))[2]
    return print_of(product, solid, perimeter * solid.radius)


def _role_look(product: Product, role: str, carton: bool) -> tuple[str, str]:
    """Color and material of a part."""
    line = product.line
    if carton:
        return product.body if line.body_material != "amber" else "#e9dcc0", "carton"
    metals = {"gold": "#d9b05f", "silver": "#cfd3d8", "wood": "#c09a6a"}
    cap = metals.get(line.cap_material, line.cap)
    collar = cap if line.cap_material in metals else mixed(line.cap, "#808080", 0.25)
    looks = {
        "body": (product.body, "carton" if product.shape == "box" else line.body_material),
        "cap": (cap, line.cap_material),
        "collar": (collar, "silver" if line.cap_material == "silver" else line.cap_material),
        "bulb": ("#f3f1ea" if line.cap_material == "gold" else "#2a2626", "rubber"),
        "crimp": (mixed(product.body, "#ffffff", 0.12), line.body_material),
        "shade": (product.accent, "glass" if product.noun == "唇釉" else "wax"),
    }
    return looks[role]


def _surface(
    product: Product, solid: Solid, hits: _Hits, normal_y: Array, carton: bool
) -> tuple[Array, dict[str, Array]]:
    """Albedo and material values of every hit."""
    x, y, z = hits.position
    tops = np.array([part.top for part in solid.parts])
    part_index = np.searchsorted(tops, y, side="right").clip(0, len(tops) - 1)
    part_index = np.where(solid.on_nozzle(x, y, z), len(tops) - 1, part_index)
    looks = [_role_look(product, part.role, carton) for part in solid.parts]
    colors = np.array([rgb(color) for color, _ in looks], np.float32) / 255
    materials = [MATERIALS[name] for _, name in looks]
    albedo = colors[part_index]
    numbers = {
        name: np.array([getattr(material, name) for material in materials], np.float32)[part_index]
        for name in ("gloss", "blur", "metal", "glass", "grain")
    }
    _apply_print(product, solid, hits, normal_y, carton, albedo, numbers)
    ring = np.sin((x * 31 + np.sin(y * 9) * 2) * 3) * numbers["grain"]
    albedo *= (1 + 0.09 * ring)[:, None]
    return albedo, numbers


def _apply_print(
    product: Product,
    solid: Solid,
    hits: _Hits,
    normal_y: Array,
    carton: bool,
    albedo: Array,
    numbers: dict[str, Array],
) -> None:
    x, y, z = hits.position
    sheet = _printed(product, carton)
    _, inverse, _ = solid.section_radius(x, y, z)
    angles, shares, _ = _perimeter(solid.squareness, max(solid.depth))
    share = np.interp(np.arctan2(x, z * inverse), angles, shares)
    column, row = share * (sheet.color.shape[1] - 1), (1 - y) * (sheet.color.shape[0] - 1)
    on_side = (np.abs(normal_y) < 0.7) & ~solid.on_nozzle(x, y, z)
    cover = sampled(sheet.cover, column, row) * on_side
    foil = sampled(sheet.foil, column, row) * on_side
    ink = sampled(sheet.color, column, row) / np.maximum(cover, 1e-3)[:, None]
    albedo += (np.minimum(ink, 1) - albedo) * cover[:, None]
    numbers["glass"] *= 1 - cover
    numbers["metal"] = np.maximum(numbers["metal"] * (1 - cover), foil)
    if product.shape in ("jar", "compact") and not carton:
        side = sheet.lid.shape[0]
        u, v = x / solid.radius, z / solid.radius
        lid = sampled(sheet.lid, (u * 0.5 + 0.5) * side, (v * 0.5 + 0.5) * side)
        lid *= (normal_y > 0.7)[:, None]
        bright = albedo.mean(axis=1) > 0.45
        ink_color = np.where(bright[:, None], albedo * 0.6, np.minimum(albedo * 1.2 + 0.35, 1))
        albedo += (ink_color - albedo) * lid[:, :1]


def _shade(
    product: Product, solid: Solid, view: Shot, hits: _Hits, carton: bool
) -> tuple[Float32[np.ndarray, "M 3"], Float32[np.ndarray, " M"]]:
    """Color before alpha, and alpha, of every hit."""
    x, y, z = hits.position
    normal = solid.normals(x, y, z)
    albedo, look = _surface(product, solid, hits, normal[1], carton)
    yaw = np.deg2rad(view.yaw_deg)
    n, d = _turn(normal, -yaw), _turn(hits.direction, -yaw)
    facing = -(n[0] * d[0] + n[1] * d[1] + n[2] * d[2]).clip(-1, 0)
    mirror = tuple(d[axis] + 2 * facing * n[axis] for axis in range(3))
    light = _diffuse(n, RIGS[view.rig])
    near = solid.distance(x + normal[0] * 0.05, y + normal[1] * 0.05, z + normal[2] * 0.05)
    light *= 0.45 + 0.55 * np.clip(near / 0.05, 0, 1)
    light *= 0.82 + 0.18 * np.clip(y / 0.12, 0, 1)
    lamps = _lamps(mirror, look["blur"], RIGS[view.rig])
    fresnel = 0.06 + 0.94 * (1 - facing) ** 5
    studio = _studio(mirror, look["blur"])
    glass, metal = look["glass"], look["metal"]
    rim = (1 - facing) ** 2
    body = albedo * light[:, None]
    inner = (
        albedo
        * (0.62 + 0.5 * light * (1 - rim) + 0.45 * np.exp(-((rim - 0.6) ** 2) / 0.02))[:, None]
    )
    body += (inner * (1 - 0.35 * rim)[:, None] - body) * glass[:, None]
    plain = body + (look["gloss"] * (0.55 * lamps + fresnel * studio * 0.6))[:, None]
    shiny = albedo * (0.25 + 1.05 * studio + 1.1 * lamps)[:, None] + 0.12 * lamps[:, None]
    color = plain + (shiny - plain) * metal[:, None]
    alpha = 1 - 0.22 * glass * (1 - rim) * (glass > 0.5)
    return np.clip(color, 0, 1).astype(np.float32), alpha.astype(np.float32)


def _diffuse(n: tuple[Array, Array, Array], rig: tuple[Softbox, ...]) -> Array:
    light = 0.44 + 0.14 * n[1]
    for lamp in rig:
        azimuth, elevation = np.deg2rad(lamp.azimuth), np.deg2rad(lamp.elevation)
        toward = (
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        )
        lit = n[0] * toward[0] + n[1] * toward[1] + n[2] * toward[2]
        light = light + 0.4 * lamp.power * np.clip((lit + 0.25) / 1.25, 0, 1)
    return np.asarray(light * (0.9 + 0.1 * n[2]), np.float32)


def _lamps(mirror: tuple[Array, ...], blur: Array, rig: tuple[Softbox, ...]) -> Array:
    """The lights' mirror images."""
    azimuth = np.rad2deg(np.arctan2(mirror[0], mirror[2]))
    elevation = np.rad2deg(np.arcsin(mirror[1].clip(-1, 1)))
    glow = np.zeros(blur.shape, np.float32)
    for lamp in rig:
        across = (lamp.width / 2 - np.abs(azimuth - lamp.azimuth)) / blur
        along = (lamp.height / 2 - np.abs(elevation - lamp.elevation)) / blur
        spread = lamp.width / (lamp.width + blur)
        inside = np.clip(across * 0.5 + 0.5, 0, 1) * np.clip(along * 0.5 + 0.5, 0, 1)
        glow += lamp.power * inside * spread
    return glow


def _studio(mirror: tuple[Array, ...], blur: Array) -> Array:
    """The mirror image of walls, table and dark corners: bands that make metal look like metal."""
    azimuth = np.arctan2(mirror[0], mirror[2])
    bands = 0.5 + 0.32 * np.cos(3 * azimuth + 0.6) + 0.18 * np.cos(7 * azimuth)
    soft = np.clip(1 - blur / 40, 0, 1)
    table = np.clip(-mirror[1] * 2, 0, 1)
    return np.asarray(
        (0.5 + (bands - 0.5) * soft) * (1 - 0.45 * table) + 0.3 * mirror[1].clip(-0.3, 1)
    )
