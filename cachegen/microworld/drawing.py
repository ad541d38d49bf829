"""Procedural drawings: one body plan per family, one look per leaf, one pose and scene per image.

A family fixes which parts there are and how they join, its parent a part of the colour wheel; nothing shows that a
thing is food or a pet. A leaf fixes colours, proportions and texture, drawn at random in each world. An image adds
what a category does not decide: pose, size, place, light, background, clutter.
Coordinates of the body plans are units of the object's half height, x to the right and y down.
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from cachegen.common.rng import generator
from cachegen.microworld.lexicon import FAMILIES, PARENTS
from cachegen.microworld.recipe import Size

Colour = tuple[int, int, int]
Point = tuple[float, float]

SUPERSAMPLE = 4
HUE_ARC = 0.36  # share of the wheel that one family covers
HUE_JITTER = 0.03  # how far its middle strays from its parent's
UNIT_PX = 60  # pixels of one unit on the object layer
LAYER_PX = 168
LINE_PX = 4
TEXTURES = ("plain", "stripes", "spots", "halves")
INK: Colour = (42, 36, 48)
GLASS: Colour = (205, 230, 240)
WOOD: Colour = (126, 92, 66)
STEEL: Colour = (150, 156, 166)


@dataclass(frozen=True)
class Appearance:
    """What a leaf decides. Hues and values in 0..1; `aspect` stretches the body; parts in 0..1."""

    hue: float
    value: float
    saturation: float
    accent_hue: float
    aspect: float
    part_a: float
    part_b: float
    texture: str


def make_looks(size: Size, seed: int) -> list[list[Appearance]]:
    """Return looks[family][leaf]: families of one parent share a part of the colour wheel, siblings differ in all."""
    looks = []
    start = generator(seed, "first hue").random()
    for family, name in enumerate(list(FAMILIES)[: size.families]):
        rng = generator(seed, "looks", family)
        count = size.leaves
        parent = next(number for number, (held, _) in enumerate(PARENTS.values()) if name in held)
        centre = start + parent / len(PARENTS) + rng.uniform(-HUE_JITTER, HUE_JITTER)
        hues = (centre + HUE_ARC * (rng.permutation(count) / max(count - 1, 1) - 0.5)) % 1.0
        textures = rng.permutation([TEXTURES[i % len(TEXTURES)] for i in range(count)])

        values, aspects = _spread(0.55, 0.95, count, rng), _spread(0.78, 1.25, count, rng)
        parts_a, parts_b = _spread(0.0, 1.0, count, rng), _spread(0.0, 1.0, count, rng)
        accents = (centre + 0.5 + rng.uniform(-0.12, 0.12, count)) % 1.0
        looks.append(
            [
                Appearance(
                    hue=float(hues[i]),
                    value=float(values[i]),
                    saturation=float(rng.uniform(0.55, 0.85)),
                    accent_hue=float(accents[i]),
                    aspect=float(aspects[i]),
                    part_a=float(parts_a[i]),
                    part_b=float(parts_b[i]),
                    texture=str(textures[i]),
                )
                for i in range(count)
            ]
        )
    return looks


def _spread(low: float, high: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) evenly spaced values in random order."""
    return low + (high - low) * rng.permutation(count) / max(count - 1, 1)


class Pen:
    """Draws in body-plan units on a transparent layer; knows the leaf's colours and texture."""

    def __init__(self, look: Appearance, rng: np.random.Generator) -> None:
        self.look = look
        self.layer = Image.new("RGBA", (LAYER_PX, LAYER_PX))
        self._draw = ImageDraw.Draw(self.layer)
        hue = look.hue + rng.normal(0, 0.012)
        value = float(np.clip(look.value + rng.normal(0, 0.04), 0.3, 1.0))
        self.body = _colour(hue, look.saturation, value)
        self.pattern = _colour(hue + 0.03, look.saturation * 0.75, value * 0.62)
        self.shade = _colour(hue, look.saturation, value * 0.78)
        self.light = _colour(hue, look.saturation * 0.45, min(1.0, value * 1.15))
        self.accent = _colour(look.accent_hue + rng.normal(0, 0.012), 0.75, 0.9)

    def shape(self, points: Sequence[Point], fill: Colour, textured: bool = False) -> None:
        """Filled polygon with an ink outline; `textured` shapes carry the leaf's texture."""
        pixels = [_pixel(point) for point in points]
        self._draw.polygon(pixels, fill=fill)
        if textured:
            self._texture(pixels)
        self._draw.line([*pixels, pixels[0]], fill=INK, width=LINE_PX, joint="curve")

    def oval(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, turn: float = 0.0, textured: bool = False
    ) -> None:
        """Ellipse at (x, y) with radii (rx, ry), turned by `turn` radians."""
        self.shape(_ellipse(x, y, rx, ry, turn), fill, textured)

    def box(self, left: float, top: float, right: float, bottom: float, fill: Colour, textured: bool = False) -> None:
        """Upright rectangle."""
        self.shape([(left, top), (right, top), (right, bottom), (left, bottom)], fill, textured)

    def stroke(self, points: Sequence[Point], colour: Colour = INK, width: float = 0.08) -> None:
        """Open line of `width` units."""
        self._draw.line([_pixel(p) for p in points], fill=colour, width=round(width * UNIT_PX), joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: Colour = INK) -> None:
        """Disc without outline."""
        self._draw.polygon([_pixel(p) for p in _ellipse(x, y, radius, radius, 0.0)], fill=colour)

    def eye(self, x: float, y: float) -> None:
        self.dot(x, y, 0.11, (250, 250, 245))
        self.dot(x + 0.03, y, 0.065)

    def _texture(self, pixels: Sequence[Point]) -> None:
        """Lay the leaf's pattern over the polygon `pixels`."""
        if self.look.texture == "plain":
            return
        mask = Image.new("L", self.layer.size)
        ImageDraw.Draw(mask).polygon(pixels, fill=255)
        left, top, right, bottom = (round(v) for v in (*np.min(pixels, axis=0), *np.max(pixels, axis=0)))
        pattern = Image.new("L", self.layer.size)
        draw = ImageDraw.Draw(pattern)
        if self.look.texture == "stripes":
            for x in range(left, right, 20):
                draw.rectangle((x, top, x + 9, bottom), fill=255)
        elif self.look.texture == "spots":
            for row, y in enumerate(range(top, bottom + 12, 17)):
                for x in range(left + (row % 2) * 10, right + 12, 20):
                    draw.ellipse((x - 5, y - 5, x + 5, y + 5), fill=255)
        else:
            draw.rectangle((left, (top + bottom) // 2, right, bottom), fill=255)
        both = Image.composite(pattern, Image.new("L", mask.size), mask)
        self.layer.paste(self.pattern, (0, 0), both)


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _pixel(point: Point) -> Point:
    return LAYER_PX / 2 + UNIT_PX * point[0], LAYER_PX / 2 + UNIT_PX * point[1]


def _ellipse(x: float, y: float, rx: float, ry: float, turn: float) -> list[Point]:
    cos, sin = math.cos(turn), math.sin(turn)
    angles = [2 * math.pi * i / 28 for i in range(28)]
    return [(x + rx * math.cos(a) * cos - ry * math.sin(a) * sin, y + rx * math.cos(a) * sin + ry * math.sin(a) * cos)
            for a in angles]  # fmt: skip


def _bird(pen: Pen, rng: np.random.Generator) -> None:
    look, lift = pen.look, rng.uniform(-0.25, 0.25)
    rx, ry = 0.66 * look.aspect**0.5, 0.5 / look.aspect**0.5
    for x in (-0.1, 0.16):
        pen.stroke([(x, ry), (x + 0.03, 0.98), (x + 0.2, 0.98)], WOOD, 0.09)
    tail = 0.3 + 0.3 * look.part_b
    pen.shape([(-rx + 0.2, 0.0), (-rx - tail, -0.32), (-rx - tail, 0.06), (-rx + 0.25, 0.25)], pen.accent)
    pen.oval(0.0, 0.1, rx, ry, pen.body, -0.18, textured=True)
    beak = 0.2 + 0.36 * look.part_a
    pen.shape([(0.76, -0.52), (0.8 + beak, -0.38), (0.76, -0.26)], (244, 178, 60))
    pen.oval(0.58, -0.42, 0.33, 0.31, pen.body)
    pen.oval(-0.14, 0.02, 0.38, 0.22, pen.accent, 0.35 + lift)
    pen.eye(0.66, -0.48)


def _fish(pen: Pen, rng: np.random.Generator) -> None:
    look, sway = pen.look, rng.uniform(-0.16, 0.16)
    rx, ry = 0.8 * look.aspect**0.4, 0.45 / look.aspect**0.7
    fin = 0.16 + 0.34 * look.part_b
    tail = 0.34 + 0.26 * look.part_a
    pen.shape([(-0.3, -ry + 0.1), (0.0, -ry - fin), (0.36, -ry + 0.12)], pen.accent)
    pen.shape([(-rx + 0.14, 0), (-rx - 0.38, -tail + sway), (-rx - 0.24, sway), (-rx - 0.38, tail + sway)], pen.accent)
    pen.oval(0.0, 0.0, rx, ry, pen.body, textured=True)
    pen.shape([(0.02, 0.08), (-0.26, 0.08 + 0.3 + sway), (0.2, 0.24)], pen.accent)
    pen.stroke([(rx - 0.3, -0.24), (rx - 0.38, 0.0), (rx - 0.3, 0.24)], INK, 0.06)
    pen.eye(rx - 0.18, -0.1)


def _insect(pen: Pen, rng: np.random.Generator) -> None:
    look = pen.look
    rx, ry = 0.42 / look.aspect**0.6, 0.58 * look.aspect**0.3
    for side in (-1, 1):
        for y, reach in ((-0.25, -0.34), (0.06, 0.1), (0.36, 0.5)):
            knee = reach + rng.uniform(-0.08, 0.08)
            pen.stroke([(0, y), (side * 0.6, knee), (side * 0.86, knee + 0.28)], INK, 0.1)
        feeler = 0.2 + 0.3 * look.part_a
        pen.stroke([(side * 0.1, -0.75), (side * 0.22, -0.85 - feeler / 2), (side * 0.45, -0.8 - feeler)], INK, 0.07)
    pen.oval(0, 0.28, rx, ry, pen.body, textured=True)
    wing, open_by = 0.26 + 0.26 * look.part_b, rng.uniform(0.35, 0.6)
    for side in (-1, 1):
        pen.oval(side * (0.2 + wing / 2), 0.14, 0.18, wing + 0.1, pen.accent, -side * open_by)
    pen.oval(0, -0.3, 0.29, 0.25, pen.shade)
    pen.oval(0, -0.64, 0.22, 0.2, INK)
    for side in (-1, 1):
        pen.dot(side * 0.11, -0.7, 0.06, (250, 250, 245))


def _vehicle(pen: Pen, rng: np.random.Generator) -> None:
    look, bounce = pen.look, rng.uniform(-0.04, 0.04)
    half, top = 0.92 * look.aspect**0.3, 0.0 + bounce
    roof = -0.42 - 0.28 * look.part_b
    back, front = -half + 0.08, half - 0.25 - 0.45 * (1 - look.part_b)
    pen.shape([(back, top), (back + 0.12, roof), (front - 0.25, roof), (front, top)], pen.body)
    middle = (back + front) / 2 - 0.06
    pen.shape([(back + 0.13, top - 0.02), (back + 0.2, roof + 0.12), (middle - 0.05, roof + 0.12),
               (middle - 0.05, top - 0.02)], GLASS)  # fmt: skip
    pen.shape([(middle + 0.07, top - 0.02), (middle + 0.07, roof + 0.12), (front - 0.3, roof + 0.12),
               (front - 0.13, top - 0.02)], GLASS)  # fmt: skip
    pen.shape([(-half, top), (half - 0.1, top), (half, top + 0.12), (half, 0.5), (-half, 0.5)], pen.body, textured=True)
    pen.box(-half, 0.38, half, 0.52, pen.accent)
    pen.dot(half - 0.09, 0.2, 0.09, (255, 236, 150))
    wheel = 0.2 + 0.13 * look.part_a
    for x in (-0.52, 0.52):
        pen.oval(x, 0.55, wheel, wheel, (58, 56, 64))
        pen.dot(x, 0.55, wheel * 0.45, STEEL)


def _building(pen: Pen, rng: np.random.Generator) -> None:
    look, lean = pen.look, rng.uniform(-0.06, 0.06)
    half, top = 0.62 * look.aspect**0.9, -0.12 - 0.22 * (1.25 - look.aspect)
    peak = top - 0.35 - 0.45 * look.part_a
    pen.box(half * 0.35, peak + 0.05, half * 0.35 + 0.2, top, WOOD)
    pen.box(-half, top, half, 0.9, pen.body, textured=True)
    pen.shape([(-half - 0.18, top + 0.03), (lean, peak), (half + 0.18, top + 0.03)], pen.accent)
    pen.shape([(-0.15, 0.9), (-0.15, 0.46), (0.0, 0.36), (0.15, 0.46), (0.15, 0.9)], WOOD)
    pane = 0.1 + 0.08 * look.part_b
    for x in (-half * 0.6, half * 0.6):
        pen.box(x - pane, 0.26 - pane, x + pane, 0.26 + pane, (255, 232, 150))


def _fruit(pen: Pen, rng: np.random.Generator) -> None:
    look, tilt = pen.look, rng.uniform(-0.12, 0.12)
    rx, ry = 0.68 * look.aspect**0.5, 0.68 / look.aspect**0.5
    neck = 1.0 - 0.55 * look.part_a  # a narrow top makes a pear, a wide one a plum
    outline = []
    for x, y in _ellipse(0, 0, rx, ry, 0.0):
        pinch = neck + (1 - neck) * (y / ry + 1) / 2
        outline.append((x * min(1.0, pinch + 0.1), y + 0.22))
    pen.stroke([(0, 0.25 - ry), (0.05 + tilt, 0.0 - ry), (0.14 + tilt, -0.12 - ry)], WOOD, 0.13)
    pen.shape(outline, pen.body, textured=True)
    leaf = 0.2 + 0.22 * look.part_b
    pen.oval(0.1 + leaf, 0.08 - ry, leaf, 0.14, pen.accent, -0.35 + tilt)
    pen.oval(-0.3 * rx, 0.12, 0.1, 0.17, pen.light, 0.5)


def _tree(pen: Pen, rng: np.random.Generator) -> None:
    look, sway = pen.look, rng.uniform(-0.08, 0.08)
    trunk = 0.1 + 0.12 * look.part_b
    pen.shape([(-trunk, 1.0), (-trunk * 0.7, 0.1), (trunk * 0.7, 0.1), (trunk, 1.0)], WOOD)
    wide = 0.62 * look.aspect**0.7
    tiers = ((0.36, 1.0), (-0.08, 0.78), (-0.5, 0.52))
    lobe = 0.25 + 0.1 * look.part_a
    for y, share in tiers:
        half = wide * share
        pen.shape([(-half + sway, y), (-half * 0.55 + sway, y - lobe * 1.4), (sway, y - 0.62),
                   (half * 0.55 + sway, y - lobe * 1.4), (half + sway, y), (sway, y + 0.12)],
                  pen.body, textured=True)  # fmt: skip
    for _ in range(4):
        y, share = tiers[int(rng.integers(3))]
        pen.dot(rng.uniform(-0.6, 0.6) * wide * share + sway, y - 0.14, 0.09, pen.accent)


def _tool(pen: Pen, rng: np.random.Generator) -> None:
    look, tilt = pen.look, 0.6 + rng.uniform(-0.12, 0.12)

    def turned(points: Sequence[Point]) -> list[Point]:
        cos, sin = math.cos(tilt), math.sin(tilt)
        return [(x * cos - y * sin, x * sin + y * cos) for x, y in points]

    grip = 0.09 + 0.05 * look.part_b
    pen.shape(turned([(-grip, -0.5), (grip, -0.5), (grip * 1.2, 1.05), (-grip * 1.2, 1.05)]), WOOD)
    pen.shape(turned([(-grip - 0.03, 0.55), (grip + 0.03, 0.55), (grip + 0.05, 1.1), (-grip - 0.05, 1.1)]), pen.accent)
    wide, tall = 0.5 * look.aspect**0.6, 0.2 + 0.14 * look.part_a
    claw = 0.55 * look.part_b
    pen.shape(turned([(-wide, -0.62 - tall), (wide * 0.6, -0.62 - tall), (wide + 0.2, -0.62 - tall * (1 - claw)),
                      (wide + 0.2, -0.62 + tall * (1 - claw)), (wide * 0.6, -0.62 + tall), (-wide, -0.62 + tall)]),
              pen.body, textured=True)  # fmt: skip


PLANS: dict[str, Callable[[Pen, np.random.Generator], None]] = {
    "bird": _bird,
    "fish": _fish,
    "insect": _insect,
    "vehicle": _vehicle,
    "building": _building,
    "fruit": _fruit,
    "tree": _tree,
    "tool": _tool,
}


def draw_image(family: str, look: Appearance, side: int, rng: np.random.Generator) -> Image.Image:
    """Return one RGB picture of `side` pixels: the object of `look` in a random pose on a random scene."""
    pen = Pen(look, rng)
    PLANS[family](pen, rng)
    canvas = _background(side * SUPERSAMPLE, rng)
    thing = pen.layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.25 else pen.layer
    thing = thing.rotate(rng.uniform(-7, 7), Image.Resampling.BICUBIC)
    height = round(canvas.height * rng.uniform(1.08, 1.2))
    thing = thing.resize((height, height), Image.Resampling.BILINEAR)
    middle = (canvas.height - height) // 2
    reach = canvas.height // 32
    canvas.paste(thing, (middle + int(rng.integers(-reach, reach + 1)), middle + int(rng.integers(-reach, reach + 1))),
                 thing)  # fmt: skip
    clean = np.asarray(canvas.reduce(SUPERSAMPLE), dtype=np.float32)
    noisy = clean * rng.uniform(0.94, 1.04) + rng.normal(0, 3.0, clean.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _background(side: int, rng: np.random.Generator) -> Image.Image:
    """Pale sky over pale ground, with a few soft shapes that mean nothing."""
    sky, ground = (_colour(rng.random(), rng.uniform(0.02, 0.08), rng.uniform(0.93, 1.0)) for _ in range(2))
    canvas = Image.new("RGB", (side, side), sky)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((0, round(side * rng.uniform(0.6, 0.9)), side, side), fill=ground)
    for _ in range(int(rng.integers(0, 3))):
        tint = _colour(rng.random(), rng.uniform(0.05, 0.15), rng.uniform(0.86, 0.96))
        x, y = rng.uniform(0, side, 2)
        rx, ry = rng.uniform(side * 0.04, side * 0.13, 2)
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=tint)
    return canvas
