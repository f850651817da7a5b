"""Pictures for the demo model: scenes of emoji, coloured shapes and printed words, drawn with Pillow.

A Scene says what is where; draw() makes the picture. Everything random comes from the random.Random given, so a seed
names a picture. Positions and sizes are fractions of the picture, so that one scene can be drawn at any size.
"""
import dataclasses
import functools
import io
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import catalog

EMOJI_FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
WORD_FONTS = ["/usr/share/fonts/truetype/dejavu/DejaVu%s.ttf" % name
              for name in ("Sans", "Sans-Bold", "SansMono-Bold", "Serif", "Serif-Bold")]
NATIVE = 109  # the only size the bitmap font holds
SIDE = 128  # side of an atlas entry


@dataclasses.dataclass
class Item:
    kind: str  # "emoji", "shape" or "word"
    index: int
    x: float  # centre, as a fraction of the width
    y: float  # centre, as a fraction of the height
    size: float  # side (a word: width) as a fraction of the shorter picture side (a word: of the picture's width)
    angle: float = 0.0
    colour: int = 0  # index into catalog.COLOURS, shapes only
    rgb: tuple = ()  # the colour as drawn
    font: int = 0

    def dense_class(self):
        emoji, shapes = len(catalog.emoji()), len(catalog.SHAPES) * len(catalog.COLOURS)
        if self.kind == "emoji":
            return self.index
        if self.kind == "shape":
            return emoji + self.index * len(catalog.COLOURS) + self.colour
        return emoji + shapes + self.index


@dataclasses.dataclass
class Scene:
    task: str  # "single", "pair", "count", "shape", "shapes" or "word"
    width: int
    height: int
    items: list
    across: bool = True  # pairs: left and right, otherwise above and below


# ------------------------------------------------------------------------------------------------------ atlas

@functools.lru_cache(maxsize=None)
def _emoji_levels(index):
    """The emoji cropped to its ink, centred on a transparent square, at three sizes."""
    font = _emoji_font()
    character = catalog.emoji()[index][0]
    sheet = Image.new("RGBA", (180, 180), (255, 255, 255, 0))
    ImageDraw.Draw(sheet).text((16, 16), character, font=font, embedded_color=True)
    box = sheet.getbbox(alpha_only=True)
    ink = sheet.crop(box)
    side = max(ink.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return [square.resize((s, s), Image.Resampling.BICUBIC) for s in (SIDE, SIDE // 2, SIDE // 4)]


@functools.lru_cache(maxsize=None)
def _emoji_font():
    return ImageFont.truetype(EMOJI_FONT, NATIVE, layout_engine=ImageFont.Layout.BASIC)


def _polygon(points):
    return lambda draw, s: draw.polygon([(x * s, y * s) for x, y in points], fill=255)


def _star():
    out = []
    for k in range(10):
        r = 0.5 if k % 2 == 0 else 0.2
        out.append((0.5 + r * math.sin(k * math.pi / 5), 0.53 - r * math.cos(k * math.pi / 5)))
    return out


def _heart():
    out = []
    for k in range(60):
        t = 2 * math.pi * k / 60
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        out.append((0.5 + x / 34, 0.46 - y / 34))
    return out


def _ring(draw, s):
    draw.ellipse((0, 0, s - 1, s - 1), fill=255)
    draw.ellipse((0.27 * s, 0.27 * s, 0.73 * s, 0.73 * s), fill=0)


SHAPE_PAINTERS = [
    lambda draw, s: draw.ellipse((0, 0, s - 1, s - 1), fill=255),
    _polygon([(0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94)]),
    _polygon([(0.5, 0.04), (1.0, 0.92), (0.0, 0.92)]),
    _polygon(_star()),
    _polygon(_heart()),
    _polygon([(0.5, 0.0), (0.9, 0.5), (0.5, 1.0), (0.1, 0.5)]),
    _polygon([(0.34, 0.02), (0.66, 0.02), (0.66, 0.34), (0.98, 0.34), (0.98, 0.66), (0.66, 0.66), (0.66, 0.98),
              (0.34, 0.98), (0.34, 0.66), (0.02, 0.66), (0.02, 0.34), (0.34, 0.34)]),
    _ring]


@functools.lru_cache(maxsize=None)
def _shape_levels(index):
    big = Image.new("L", (SIDE * 4, SIDE * 4), 0)
    SHAPE_PAINTERS[index](ImageDraw.Draw(big), SIDE * 4)
    return [big.resize((s, s), Image.Resampling.BOX) for s in (SIDE, SIDE // 2, SIDE // 4)]


@functools.lru_cache(maxsize=None)
def _word_mask(index, font):
    face = ImageFont.truetype(WORD_FONTS[font], 48, layout_engine=ImageFont.Layout.BASIC)
    left, top, right, bottom = face.getbbox(catalog.WORDS[index])
    mask = Image.new("L", (right - left + 4, bottom - top + 4), 0)
    ImageDraw.Draw(mask).text((2 - left, 2 - top), catalog.WORDS[index], font=face, fill=255)
    return mask


# ------------------------------------------------------------------------------------------------------ drawing

def _turned(levels, side, angle):
    """An atlas entry at the given side in pixels, turned by angle degrees, on a square just large enough."""
    source = next((l for l in reversed(levels) if l.width >= 0.8 * side), levels[0])
    ratio = source.width / side
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    out = math.ceil(side * (abs(sine) + abs(cosine))) + 2
    a, b, d, e = ratio * cosine, ratio * sine, -ratio * sine, ratio * cosine
    half, centre = out / 2, source.width / 2
    matrix = (a, b, centre - a * half - b * half, d, e, centre - d * half - e * half)
    return source.transform((out, out), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)


def _background(rng, width, height, avoid):
    """A plain, shaded or mottled background; colours close to one of avoid are not used."""
    def colour():
        for _ in range(50):
            kind = rng.random()
            if kind < 0.3:
                c = (255, 255, 255)
            elif kind < 0.6:
                c = tuple(rng.randint(150, 255) for _ in range(3))
            else:
                c = tuple(rng.randint(0, 255) for _ in range(3))
            if all(sum((p - q) ** 2 for p, q in zip(c, other)) > 110 ** 2 for other in avoid):
                return c
        return c
    base = colour()
    kind = rng.random()
    if kind < 0.45:
        return Image.new("RGB", (width, height), base)
    n, m = (2, 2) if kind < 0.7 else (rng.randint(2, 7), rng.randint(2, 7))
    other = colour()
    mix = 0.6 if kind < 0.7 else 0.35
    if avoid:
        other, mix = base, 0.0
    noise = 18 if kind < 0.7 else 40
    small = Image.new("RGB", (n, m))
    small.putdata([tuple(max(0, min(255, int(p + (q - p) * mix * (u := rng.random()) + rng.randint(-noise, noise))))
                         for p, q in zip(base, other)) for _ in range(n * m)])
    return small.resize((width, height), Image.Resampling.BICUBIC)


def draw(scene, rng):
    """The picture of a scene as an RGB image, on a random background and with random camera effects."""
    picture = _background(rng, scene.width, scene.height, [item.rgb for item in scene.items if item.rgb])
    paint(scene, picture)
    return _degrade(picture, rng, mild=any(item.kind != "emoji" for item in scene.items))


def paint(scene, picture):
    """Put the things of a scene on a picture."""
    width, height = picture.size
    for item in scene.items:
        if item.kind == "word":
            mask = _word_mask(item.index, item.font)
            w = max(8, round(item.size * width))
            h = max(6, round(mask.height * w / mask.width))
            if h > 0.6 * height:
                w, h = max(8, round(w * 0.6 * height / h)), round(0.6 * height)
            mask = mask.resize((w, h), Image.Resampling.BICUBIC).rotate(item.angle, Image.Resampling.BICUBIC, expand=True)
            corner = (round(item.x * width - mask.width / 2), round(item.y * height - mask.height / 2))
            picture.paste(item.rgb, (corner[0], corner[1], corner[0] + mask.width, corner[1] + mask.height), mask)
            continue
        side = max(6.0, item.size * min(width, height))
        levels = _emoji_levels(item.index) if item.kind == "emoji" else _shape_levels(item.index)
        figure = _turned(levels, side, item.angle)
        x, y = round(item.x * width - figure.width / 2), round(item.y * height - figure.height / 2)
        if item.kind == "emoji":
            picture.paste(figure, (x, y), figure)
        else:
            picture.paste(item.rgb, (x, y, x + figure.width, y + figure.height), figure)


def _degrade(picture, rng, mild):
    """Camera and file effects: exposure and tint, blur, noise, JPEG. mild keeps colours nameable."""
    if rng.random() < 0.6:
        amount = 0.05 if mild else 0.15
        lut = []
        gain = 1 + rng.uniform(-amount, amount)
        for _ in range(3):
            g, o = gain * (1 + rng.uniform(-amount, amount) / 3), rng.uniform(-60, 60) * amount
            lut += [max(0, min(255, int(v * g + o))) for v in range(256)]
        picture = picture.point(lut)
    if rng.random() < 0.15:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9) * min(picture.size) / 96))
    if rng.random() < 0.12:
        noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 9), (picture.height, picture.width, 3))
        picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    if rng.random() < 0.25:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=rng.randint(45, 95))
        picture = Image.open(data).convert("RGB")
    return picture


# ------------------------------------------------------------------------------------------------------ scenes

def _named_colour(rng, index):
    return tuple(max(0, min(255, c + rng.randint(-14, 14))) for c in catalog.COLOURS[index][2])


def _shape_item(rng, index, colour, x, y, size):
    return Item("shape", index, x, y, size, rng.uniform(-10, 10), colour, _named_colour(rng, colour))


def single(rng, width, height, index):
    """One emoji, anywhere it fits."""
    size = rng.uniform(0.55, 0.98)
    short = min(width, height)
    rx, ry = (1 - size * short / width) / 2, (1 - size * short / height) / 2
    item = Item("emoji", index, 0.5 + rng.uniform(-rx, rx), 0.5 + rng.uniform(-ry, ry), size, rng.uniform(-18, 18))
    return Scene("single", width, height, [item])


def pair(rng, width, height, first, second, across):
    """Two emoji side by side, or one above the other."""
    along, other = (width, height) if across else (height, width)
    limit = min(0.48 * along, 0.95 * other) / min(width, height)
    items = []
    for k, index in enumerate((first, second)):
        size = limit * rng.uniform(0.8, 1.0)
        slack = (0.5 - size * min(width, height) / along) / 2
        p = 0.25 + 0.5 * k + rng.uniform(-slack, slack)
        reach = min(0.3, (1 - size * min(width, height) / other) / 2)
        q = 0.5 + rng.uniform(-reach, reach)
        items.append(Item("emoji", index, *((p, q) if across else (q, p)), size, rng.uniform(-12, 12)))
    return Scene("pair", width, height, items, across)


def count(rng, width, height, number, make):
    """number equal things, scattered without touching; make(x, y, size) builds one."""
    short = min(width, height)
    size = rng.uniform(0.24, 0.34) if number > 2 else rng.uniform(0.26, 0.42)
    while True:
        places = []
        for _ in range(200):
            x = rng.uniform(size / 2 * short / width, 1 - size / 2 * short / width)
            y = rng.uniform(size / 2 * short / height, 1 - size / 2 * short / height)
            if all(math.hypot((x - p) * width, (y - q) * height) > 1.12 * size * short for p, q in places):
                places.append((x, y))
            if len(places) == number:
                return Scene("count", width, height, [make(x, y, size) for x, y in places])
        size *= 0.92


def shape(rng, width, height, index, colour):
    """One coloured shape."""
    size = rng.uniform(0.4, 0.92)
    short = min(width, height)
    rx, ry = (1 - size * short / width) / 2, (1 - size * short / height) / 2
    return Scene("shape", width, height, [
        _shape_item(rng, index, colour, 0.5 + rng.uniform(-rx, rx), 0.5 + rng.uniform(-ry, ry), size)])


def shapes(rng, width, height, kinds, colours, across):
    """Two different shapes of different colours side by side or one above the other."""
    scene = pair(rng, width, height, 0, 0, across)
    scene.items = [_shape_item(rng, k, c, item.x, item.y, item.size * 0.92)
                   for item, k, c in zip(scene.items, kinds, colours)]
    scene.task = "shapes"
    return scene


def word(rng, width, height, index):
    """One printed word."""
    size = rng.uniform(0.62, 0.94)
    colour = rng.choice([0, 3, 4, 5, 7, 8, 8, 8, 9])
    item = Item("word", index, 0.5 + rng.uniform(-1, 1) * (0.97 - size) / 2, rng.uniform(0.3, 0.7), size, rng.uniform(-6, 6),
                colour, _named_colour(rng, colour), rng.randrange(len(WORD_FONTS)))
    return Scene("word", width, height, [item])


def sample(rng, task, width, height, objects, words):
    """A random scene of the given task with these objects and words, both given by their indices."""
    across = width > height or (width == height and rng.random() < 0.5)
    if task == "single":
        return single(rng, width, height, rng.choice(objects))
    if task == "pair":
        return pair(rng, width, height, *rng.sample(objects, 2), across)
    if task == "count":
        number = rng.randint(1, 5)
        if rng.random() < 0.3:
            kind, colour = rng.randrange(len(catalog.SHAPES)), rng.randrange(len(catalog.COLOURS))
            return count(rng, width, height, number, lambda x, y, s: _shape_item(rng, kind, colour, x, y, s))
        index = rng.choice(objects)
        return count(rng, width, height, number, lambda x, y, s: Item("emoji", index, x, y, s, rng.uniform(-12, 12)))
    if task == "shape":
        return shape(rng, width, height, rng.randrange(len(catalog.SHAPES)), rng.randrange(len(catalog.COLOURS)))
    if task == "shapes":
        kinds, colours = rng.sample(range(len(catalog.SHAPES)), 2), rng.sample(range(len(catalog.COLOURS)), 2)
        return shapes(rng, width, height, kinds, colours, across)
    return word(rng, width, height, rng.choice(words))


def dense_labels(scene, grid):
    """The visual class of every cell of a grid x grid map over the squashed picture."""
    background = catalog.dense_classes() - 1
    out = np.full((grid, grid), background, np.int64)
    centres = (np.arange(grid) + 0.5) / grid
    for item in scene.items:
        if item.kind == "word":
            rx, ry = item.size / 2, 0.14
        else:
            short = min(scene.width, scene.height)
            rx, ry = item.size * short / scene.width / 2, item.size * short / scene.height / 2
        inside = (((centres[None, :] - item.x) / rx) ** 2 + ((centres[:, None] - item.y) / ry) ** 2) < 0.95
        inside[min(grid - 1, int(item.y * grid)), min(grid - 1, int(item.x * grid))] = True
        out[inside] = item.dense_class()
    return out
