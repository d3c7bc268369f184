"""Drawn aerial scenes: something to compress where no photograph may be shipped.

A scene is a map of parcels (crops, ploughed land, pasture, wood, houses, yards), a road net, sometimes a
river, and trees. Heights cast shadows, every surface has natural (1/f) texture, and a sensor blurs and adds
noise. A pixel is about half a metre. It is made for demonstrations and tests: no result about quality should
rest on it.
"""

from dataclasses import dataclass

import numpy as np

CROP, SOIL, PASTURE, WOOD, HOUSES, YARD, ROAD, WATER = range(8)
PARCELS = 6  # the first kinds; the others are drawn over them
COLOURS = {  # RGB, 0..255: two ends between which each parcel draws its own
    CROP: ((92, 106, 62), (168, 156, 106)),
    SOIL: ((112, 92, 72), (160, 138, 114)),
    PASTURE: ((92, 98, 66), (118, 122, 80)),
    WOOD: ((58, 68, 44), (74, 80, 54)),
    HOUSES: ((108, 114, 84), (138, 132, 108)),
    YARD: ((124, 122, 120), (150, 148, 144)),
}
# One value for each kind.
FURROWS = np.array([0.05, 0.08, 0, 0, 0, 0, 0, 0])
TREES = np.array([0, 0, 0.03, 0.93, 0.32, 0.05, 0, 0])
ROUGHNESS = np.array([0.8, 1.0, 0.9, 1.1, 1.2, 0.7, 0.5, 0.12])
TINT = np.array((1.0, 0.2, -1.0))  # along which colours vary within a surface
GREYING = 0.5  # haze takes half of the colour
ROOFS = np.array([[176, 168, 158], [136, 128, 122], [166, 112, 92], [204, 200, 194], [150, 96, 78]])
CARS = np.array([[60, 62, 68], [210, 210, 208], [150, 30, 34], [120, 124, 130], [40, 60, 96]])
ROOF = 6.0  # pixels high
SUN = (2, 1)  # rows and columns towards the sun for two pixels of height
TABLE = 4096  # entries of the tables of random attributes


@dataclass
class Map:
    """A scene being drawn; arrays are `[H, W]`, colours `[H, W, 3]` in 0..255.

    Attributes:
      u, v: pixel coordinates along and across the fields, rotated and slightly bent.
      parcel: number of the parcel, an index into tables of `TABLE` entries.
      kind: what grows or stands there.
      edge: pixels to the nearest border of the parcel.
      colour: what the sensor would see under an even sky.
      height: of what stands there, in pixels.
    """

    u: np.ndarray
    v: np.ndarray
    parcel: np.ndarray
    kind: np.ndarray
    edge: np.ndarray
    colour: np.ndarray
    height: np.ndarray


def draw_scene(height: int, width: int, seed: int) -> np.ndarray:
    """Draws a scene; the same arguments give the same scene.

    Args:
      height: pixels, at least 1.
      width: pixels, at least 1.
      seed: which scene, at least 0.

    Returns:
      RGB, uint8 `[height, width, 3]`.

    Raises:
      ValueError: an argument is below its least value.
    """
    if min(height, width) < 1 or seed < 0:
        raise ValueError(f"scenes have at least one pixel, seeds start at 0, got {height} x {width}, {seed}")
    rng = np.random.default_rng(seed)
    scene = _lay_out(height, width, rng)
    _sow(scene, rng)
    _build(scene, rng)
    _pave(scene, rng)
    _flood(scene, rng)
    _plant(scene, rng)
    return _expose(scene, rng)


def noise(height: int, width: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Texture whose amplitude falls as `frequency ** -slope`: `[height, width]`, mean 0, deviation 1."""
    rows, cols = max(height, 2), max(width, 2)
    spectrum = np.fft.rfft2(rng.standard_normal((rows, cols)))
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)[None, :])
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(spectrum * frequency**-slope, (rows, cols))[:height, :width]
    return (field - field.mean()) / max(float(field.std()), 1e-9)


def _lay_out(height: int, width: int, rng: np.random.Generator) -> Map:
    """Parcels: strips of random width, each cut across at a length of its own."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    angle = rng.uniform(-0.5, 0.5)
    bend = 0.02 * max(height, width) * noise(height, width, 2.5, rng)
    u, v = x * np.cos(angle) + y * np.sin(angle) + bend, y * np.cos(angle) - x * np.sin(angle) + bend
    borders = u.min() - 50 + np.cumsum(rng.uniform(110, 260, int(np.ptp(u) / 110) + 4))
    strip = np.searchsorted(borders, u)
    length = rng.uniform(120, 300, len(borders) + 1)[strip]
    along = (v - v.min()) / length + rng.uniform(0, 1, len(borders) + 1)[strip]
    across = np.minimum(
        np.abs(u - borders[strip - 1]), np.abs(borders[np.minimum(strip, len(borders) - 1)] - u)
    )
    edge = np.minimum(across, length * np.abs(along - np.round(along)))
    parcel = (strip * 61 + along.astype(int) * 17) % TABLE
    share = rng.dirichlet([1.2, 0.9, 0.8, 0.9, 1.4, 0.8])
    kind = rng.choice(PARCELS, TABLE, p=share)[parcel]
    return Map(u, v, parcel, kind, edge, np.zeros((height, width, 3)), np.zeros((height, width)))


def _sow(scene: Map, rng: np.random.Generator) -> None:
    """Ground colour of each parcel, patches of growth, furrows and the tracks of tractors."""
    rows, cols = scene.kind.shape
    ends = np.array([COLOURS[kind] for kind in range(PARCELS)], float)[scene.kind]
    mix = rng.uniform(0, 1, TABLE)[scene.parcel] + 0.13 * noise(rows, cols, 1.3, rng)
    scene.colour += ends[:, :, 0] + (ends[:, :, 1] - ends[:, :, 0]) * mix[:, :, None]
    turned = rng.random(TABLE)[scene.parcel] < 0.5
    line = np.where(turned, scene.u, scene.v) + 0.5 * noise(rows, cols, 1.5, rng)
    period, depth = rng.uniform(4, 11, TABLE)[scene.parcel], rng.uniform(0.2, 1.3, TABLE)[scene.parcel]
    waves = np.sin(2 * np.pi * line / period) * (1 + 0.5 * noise(rows, cols, 0.8, rng))
    tracks = (line % (6 * period) < 2.0) * 0.8
    furrows = FURROWS[scene.kind] * depth * (waves - tracks)
    scene.colour *= (1 + furrows)[:, :, None]


def _cells(scene: Map, pitch_u: float, pitch_v: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number of the cell a pixel lies in, and its place in it, centred, in pixels."""
    i, j = np.floor(scene.u / pitch_u), np.floor(scene.v / pitch_v)
    cell = (i * 97 + j * 31).astype(int) % TABLE
    return cell, scene.u - (i + 0.5) * pitch_u, scene.v - (j + 0.5) * pitch_v


def _build(scene: Map, rng: np.random.Generator) -> None:
    """Houses with gable roofs; halls with flat roofs and rows of cars in the yards."""
    inside = scene.edge > 9
    where = inside & (scene.kind == HOUSES)
    _rectangles(scene, where, (26.0, 31.0), ((7, 11), (9, 14)), ROOFS, ROOF, 0.9, 0.16, rng)
    where = inside & (scene.kind == YARD)
    _rectangles(scene, where, (6.0, 13.0), ((2.2, 2.8), (4.4, 6.2)), CARS, 2.0, 0.7, 0.0, rng)
    _rectangles(scene, where, (110.0, 96.0), ((26, 40), (20, 36)), ROOFS, 12.0, 0.7, 0.02, rng)


def _rectangles(
    scene: Map,
    where: np.ndarray,
    pitch: tuple[float, float],
    sides: tuple[tuple[float, float], tuple[float, float]],
    colours: np.ndarray,
    height: float,
    share: float,
    gable: float,
    rng: np.random.Generator,
) -> None:
    """One rectangle in each cell of a lattice, where there is room; `sides` are ranges of half sides."""
    cell, du, dv = _cells(scene, *pitch)
    half = [rng.uniform(*side, TABLE)[cell] for side in sides]
    slack = [
        rng.uniform(-1, 1, TABLE)[cell] * (p / 2 - h).clip(0) * 0.5 for p, h in zip(pitch, half, strict=True)
    ]
    du, dv = du - slack[0], dv - slack[1]
    hit = (
        where
        & (np.abs(du) < half[0] / 1.4)
        & (np.abs(dv) < half[1] / 1.4)
        & (rng.random(TABLE)[cell] < share)
    )
    roof = (
        colours[rng.integers(0, len(colours), TABLE)][cell] * rng.uniform(0.85, 1.1, TABLE)[cell][:, :, None]
    )
    roof = roof * (1 + gable * np.sign(du))[:, :, None]
    scene.colour[hit] = roof[hit]
    scene.height[hit] = height


def _pave(scene: Map, rng: np.random.Generator) -> None:
    """Roads with pale verges and a centre line along some borders, tracks along the others."""
    wide = np.isin(scene.kind, (HOUSES, YARD))
    surface = np.where(wide[:, :, None], (150.0, 148.0, 146.0), (168.0, 156.0, 136.0))
    verge, road = scene.edge < np.where(wide, 7.5, 3.0), scene.edge < np.where(wide, 5.5, 2.0)
    scene.colour[verge] = 0.5 * scene.colour[verge] + 0.5 * np.array((150.0, 146.0, 118.0))
    scene.colour[road] = surface[road]
    scene.colour[(scene.edge < 0.5) & wide & (scene.v % 12 < 6)] = 225
    scene.height[verge], scene.kind[road] = 0, ROAD


def _flood(scene: Map, rng: np.random.Generator) -> None:
    """In every other scene, a river with sandy banks."""
    if rng.random() < 0.5:
        return
    rows, cols = scene.kind.shape
    middle = scene.u.mean() + 0.5 * np.ptp(scene.u) * rng.uniform(-0.5, 0.5)
    far = np.abs(scene.u - middle + 0.06 * max(rows, cols) * noise(rows, cols, 2.0, rng))
    width = rng.uniform(18, 50)
    bank, water = far < width + 6, far < width
    scene.colour[bank] = (160, 148, 122)
    depth = (1 - far[water] / width)[:, None]
    scene.colour[water] = np.array((84.0, 92.0, 78.0)) - depth * np.array((42.0, 32.0, 22.0))
    scene.height[bank], scene.kind[bank], scene.kind[water] = 0, ROAD, WATER


def _plant(scene: Map, rng: np.random.Generator) -> None:
    """Trees as domes: at most one in each cell of a jittered lattice, dense in woods and along borders."""
    pitch = 9.0
    rows, cols = scene.kind.shape
    grid = int(rows / pitch) + 3, int(cols / pitch) + 3
    jitter, radius = rng.uniform(0, 1, (2, *grid)), rng.uniform(3.0, 6.5, grid)
    centre = (np.indices(grid) - 1 + jitter) * pitch
    at = tuple(np.clip(centre[a].astype(int), 0, (rows, cols)[a] - 1) for a in (0, 1))
    hedge = 0.55 * ((scene.edge > 4) & (scene.edge < 12)) * (rng.random(TABLE)[scene.parcel] < 0.35)
    hedge *= scene.kind < PARCELS
    density = np.maximum(TREES[scene.kind], hedge) * (scene.height == 0) * (scene.edge > 5)
    radius = np.where(rng.random(grid) < density[at], radius, 0)
    tint = rng.uniform(0.75, 1.25, grid)
    dome, shade = _domes(rows, cols, pitch, centre, radius, tint)
    crown = dome > 0
    leaf = np.array((66.0, 82.0, 48.0)) * (shade * (1 + 0.22 * noise(rows, cols, 0.5, rng)))[:, :, None]
    scene.colour[crown] = leaf[crown]
    scene.height = np.maximum(scene.height, dome)


def _domes(
    rows: int, cols: int, pitch: float, centre: np.ndarray, radius: np.ndarray, tint: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Height and tint of the highest dome over each pixel; only the nine cells around it can reach it."""
    y, x = np.mgrid[:rows, :cols]
    i, j = (y / pitch).astype(int) + 1, (x / pitch).astype(int) + 1
    dome, shade = np.zeros((rows, cols)), np.ones((rows, cols))
    for di in (-1, 0, 1):
        for dj in (-1, 0, 1):
            cell = i + di, j + dj
            dy, dx = y - centre[0][cell], x - centre[1][cell]
            rise = radius[cell] ** 2 - dy**2 - dx**2
            light = tint[cell] * (1 + 0.4 * (dy + 0.5 * dx) / np.maximum(radius[cell], 1))
            higher = rise > dome**2
            dome[higher], shade[higher] = np.sqrt(rise[higher]), light[higher]
    return dome, shade


def _expose(scene: Map, rng: np.random.Generator) -> np.ndarray:
    """Shadows, texture, haze, optics and sensor noise; to uint8."""
    rows, cols = scene.kind.shape
    light = np.where(_shadow(scene.height), 0.48, 1.0)
    rough = ROUGHNESS[scene.kind] * rng.uniform(0.5, 1.7, TABLE)[scene.parcel]
    rough = np.where(scene.height >= ROOF, 0.5 * rough, rough)
    patchy = np.exp(0.5 * np.clip(noise(rows, cols, 1.2, rng), -2, 1.5))  # as growth and dirt are
    grain = rough * (0.09 * noise(rows, cols, 1.1, rng) + 0.08 * patchy * noise(rows, cols, 0.5, rng))
    image = scene.colour * (light * np.exp(grain))[:, :, None]
    image *= 1 + 0.02 * rough[:, :, None] * noise(rows, cols, 0.9, rng)[:, :, None] * TINT
    image = GREYING * image.mean(axis=2, keepdims=True) + (1 - GREYING) * image
    image = _blur(_blur(image, 0), 1)
    return np.clip(np.round(image + rng.normal(0, 0.8, image.shape)), 0, 255).astype(np.uint8)


def _shadow(height: np.ndarray) -> np.ndarray:
    """Where something higher stands between the ground and the sun, which is below and to the right."""
    shadow = np.zeros(height.shape, bool)
    for step in range(1, 7):
        down, right = SUN[0] * step, SUN[1] * step
        caster = height[down:, right:]
        rows, cols = caster.shape
        shadow[:rows, :cols] |= caster > height[:rows, :cols] + 2.0 * step
    return shadow


def _blur(image: np.ndarray, axis: int) -> np.ndarray:
    """A narrow point spread along one axis."""
    padded = np.pad(image, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
    before, after = (np.take(padded, np.arange(k, k + image.shape[axis]), axis) for k in (0, 2))
    return 0.13 * before + 0.74 * image + 0.13 * after
