"""Draws film posters with Pillow. Each genre has its own colours, scene and lettering; several genres are mixed."""

import functools
import math
import random
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

WIDTH, HEIGHT = 200, 300

# Posters are drawn at twice their size, so that reducing them smooths the edges.
_W, _H = 2 * WIDTH, 2 * HEIGHT

_Colour = tuple[int, int, int]
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


@dataclass(frozen=True)
class Lettering:
    """How the title is written.

    Attributes:
      colours: the colours of the letters, in turn.
      size: the font size in pixels, at twice the poster's size.
      top: the distance from the top, as a share of the poster's height.
      tilt: the rotation in degrees, counterclockwise.
      jumble: the largest random vertical shift of a letter, in pixels at twice the poster's size.
      outline: the colour of the letters' outline; None for a thin one in the colour of the letter.
      glow: the colour around the letters that keeps them legible.
      capitals: whether the title is in capitals.
    """

    colours: tuple[_Colour, ...]
    size: int
    top: float
    tilt: float = 0
    jumble: int = 0
    outline: _Colour | None = None
    glow: _Colour = _BLACK
    capitals: bool = True


@dataclass(frozen=True)
class Style:
    """What the posters of a genre have in common.

    Attributes:
      sky: the background colour at the top.
      ground: the background colour at the bottom.
      lettering: how the title is written.
      scene: draws the scene on the image that it is given.
    """

    sky: _Colour
    ground: _Colour
    lettering: Lettering
    scene: Callable[[Image.Image, random.Random], None]


def draw(title: str, genres: Sequence[str], rng: random.Random) -> Image.Image:
    """Draws a poster.

    Args:
      title: the title on the poster.
      genres: keys of `STYLES`; the first one decides most of the colour, and its scene is in front.
      rng: the random numbers for everything that the genres do not decide.

    Returns:
      An RGB image of `WIDTH` × `HEIGHT` pixels.
    """
    styles = [STYLES[genre] for genre in genres]
    image = _gradient(_mixed([style.sky for style in styles], rng), _mixed([style.ground for style in styles], rng))
    for style in reversed(styles):
        style.scene(image, rng)
    _set_title(image, title, rng.choice(styles).lettering, rng)
    _set_credits(image, rng)
    return _with_grain(image.reduce(2), rng)


def _drama(image: Image.Image, rng: random.Random) -> None:
    """A head and shoulders against the light."""
    pen = ImageDraw.Draw(image, "RGBA")
    x, head = rng.randint(120, 280), rng.randint(62, 80)
    for glow in range(6):
        radius = 190 - 20 * glow
        pen.ellipse((x - radius, 300 - radius, x + radius, 300 + radius), fill=(236, 214, 178, 22))
    dark = (34, 28, 30, 240)
    pen.ellipse((x - head, 205, x + head, 205 + 2.5 * head), fill=dark)
    pen.rectangle((x - head // 2, 320, x + head // 2, 430), fill=dark)
    pen.ellipse((x - 2.4 * head, 395, x + 2.4 * head, 760), fill=dark)
    side = rng.choice((-1, 1))
    pen.arc((x - head, 205, x + head, 205 + 2.5 * head), *((-70, 60) if side > 0 else (120, 250)), (220, 190, 140), 5)


def _comedy(image: Image.Image, rng: random.Random) -> None:
    """Rays of bright flat colour, and a face that laughs."""
    pen = ImageDraw.Draw(image, "RGBA")
    x, y, turn = rng.randint(140, 260), rng.randint(300, 360), rng.uniform(0, 30)
    for ray in range(12):
        pen.pieslice((x - 700, y - 700, x + 700, y + 700), turn + 30 * ray, turn + 30 * ray + 15, (255, 120, 40, 150))
    radius = rng.randint(85, 110)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 226, 60), outline=_BLACK, width=6)
    for eye in (-1, 1):
        left = x + eye * radius * 0.4
        pen.ellipse((left - 11, y - 45, left + 11, y - 12), fill=_BLACK)
    pen.chord((x - radius * 0.6, y - 40, x + radius * 0.6, y + radius * 0.7), 10, 170, fill=(190, 30, 40), outline=_BLACK)


def _romance(image: Image.Image, rng: random.Random) -> None:
    """Two hearts that overlap, and small ones around them."""
    for _ in range(rng.randint(5, 9)):
        _heart(image, rng.randint(20, 380), rng.randint(20, 500), rng.randint(9, 20), (255, 255, 255, 150))
    x, y, size = rng.randint(150, 200), rng.randint(270, 340), rng.randint(80, 105)
    _heart(image, x, y, size, (214, 52, 92, 215))
    _heart(image, x + size, y + rng.randint(-40, 40), int(size * 0.85), (246, 120, 140, 205))


def _heart(image: Image.Image, x: int, y: int, size: int, colour: tuple[int, int, int, int]) -> None:
    turns = [2 * math.pi * step / 60 for step in range(60)]
    # The heart curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t.
    outline = [
        (
            x + size * math.sin(t) ** 3,
            y - size / 16 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
        )
        for t in turns
    ]
    ImageDraw.Draw(image, "RGBA").polygon(outline, fill=colour)


def _horror(image: Image.Image, rng: random.Random) -> None:
    """Blood that runs down, and two eyes in the dark."""
    pen = ImageDraw.Draw(image, "RGBA")
    x, y = rng.randint(110, 230), rng.randint(190, 300)
    for eye in (0, 90):
        pen.ellipse((x + eye - 34, y - 14, x + eye + 34, y + 18), fill=(240, 226, 150))
        pen.ellipse((x + eye - 7, y - 14, x + eye + 7, y + 18), fill=_BLACK)
        pen.polygon(((x + eye - 40, y - 26), (x + eye + 40, y - 26), (x + 45, y + 2)), fill=(16, 8, 10))
    for _ in range(rng.randint(6, 9)):
        x, y, radius, length = rng.randint(0, 400), rng.randint(-10, 420), rng.randint(16, 46), rng.randint(40, 190)
        red = (rng.randint(130, 190), 6, 14, 235)
        pen.ellipse((x - radius, y - radius * 0.8, x + radius, y + radius * 0.8), fill=red)
        for _ in range(3):
            drop = x + rng.randint(-radius // 2, radius // 2)
            end = y + length * rng.uniform(0.3, 1)
            pen.line((drop, y, drop, end), fill=red, width=7)
            pen.ellipse((drop - 6, end - 8, drop + 6, end + 8), fill=red)


def _science_fiction(image: Image.Image, rng: random.Random) -> None:
    """Stars, a planet with a ring, and a grid that runs to the horizon."""
    pen = ImageDraw.Draw(image, "RGBA")
    for _ in range(110):
        x, y, radius = rng.randint(0, 400), rng.randint(0, 420), rng.choice((1, 1, 2, 3))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(230, 240, 255, rng.randint(120, 255)))
    x, y, radius = rng.randint(90, 310), rng.randint(170, 290), rng.randint(50, 85)
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(64, 120, 200))
    pen.chord((x - radius, y - radius, x + radius, y + radius), -60, 120, fill=(28, 58, 120))
    pen.ellipse((x - 1.8 * radius, y - 0.4 * radius, x + 1.8 * radius, y + 0.4 * radius), outline=(150, 220, 255), width=6)
    horizon, line = 430, (60, 230, 240, 200)
    for step in range(-12, 13):
        pen.line((200 + 18 * step, horizon, 200 + 110 * step, _H), fill=line, width=3)
    for step in range(9):
        height = horizon + 170 * (step / 8) ** 2
        pen.line((0, height, _W, height), fill=line, width=3)


def _western(image: Image.Image, rng: random.Random) -> None:
    """A low sun, table mountains on the horizon, and a cactus."""
    pen = ImageDraw.Draw(image, "RGBA")
    x, radius, horizon = rng.randint(110, 290), rng.randint(75, 115), rng.randint(400, 440)
    pen.ellipse((x - radius, horizon - 1.6 * radius, x + radius, horizon + 0.4 * radius), fill=(250, 214, 110, 235))
    for _ in range(3):
        left, width, height = rng.randint(-40, 340), rng.randint(70, 150), rng.randint(40, 110)
        top = horizon - height
        mountain = ((left - 20, horizon), (left, top), (left + width, top), (left + width + 25, horizon))
        pen.polygon(mountain, fill=(132, 66, 38, 240))
    pen.rectangle((0, horizon, _W, _H), fill=(176, 112, 60, 255))
    x, green = rng.choice((rng.randint(40, 90), rng.randint(310, 360))), (44, 62, 40)
    top = horizon - rng.randint(60, 130)
    pen.rounded_rectangle((x - 13, top, x + 13, horizon + 60), 13, fill=green)
    for side, drop in ((-1, 45), (1, 75)):
        pen.line(((x, top + drop), (x + side * 38, top + drop), (x + side * 38, top + drop - 42)), green, 15, "curve")


def _documentary(image: Image.Image, rng: random.Random) -> None:
    """A photograph in a frame, and columns of print."""
    pen = ImageDraw.Draw(image, "RGBA")
    left, top = rng.randint(45, 75), rng.randint(130, 165)
    width, height = rng.randint(250, 285), rng.randint(190, 230)
    photograph = Image.frombytes("L", (9, 7), rng.randbytes(63)).resize((width, height), Image.Resampling.BICUBIC)
    pen.rectangle((left - 14, top - 14, left + width + 14, top + height + 14), fill=_WHITE, outline=(60, 60, 60), width=3)
    image.paste(photograph.convert("RGB"), (left, top))
    for column in (40, 215):
        for line in range(9):
            end = column + rng.randint(105, 145)
            y = top + height + 45 + 15 * line
            pen.line((column, y, end, y), fill=(40, 40, 44, 220), width=5)


def _animation(image: Image.Image, rng: random.Random) -> None:
    """Round creatures in saturated colours with thick outlines."""
    pen = ImageDraw.Draw(image, "RGBA")
    colours = [(255, 60, 170), (40, 220, 90), (255, 150, 20), (30, 170, 255), (160, 70, 255)]
    rng.shuffle(colours)
    for index, colour in enumerate(colours[: rng.randint(3, 4)]):
        x, y = 70 + 88 * index + rng.randint(-14, 14), rng.randint(300, 430)
        radius = rng.randint(48, 72)
        pen.rounded_rectangle((x - radius, y - radius, x + radius, y + 1.5 * radius), radius, colour, _BLACK, 8)
        for eye in (-1, 1):
            middle = x + eye * radius * 0.4
            pen.ellipse((middle - 19, y - 32, middle + 19, y + 10), fill=_WHITE, outline=_BLACK, width=4)
            pen.ellipse((middle - 6, y - 14, middle + 8, y + 4), fill=_BLACK)


STYLES = {
    "Drama": Style((96, 88, 84), (52, 50, 60), Lettering(((232, 220, 198),), size=38, top=0.06), _drama),
    "Comedy": Style((255, 214, 40), (255, 170, 30), Lettering((_WHITE,), size=66, top=0.03, tilt=9, outline=_BLACK), _comedy),
    "Romance": Style(
        (255, 206, 196), (250, 164, 168), Lettering(((150, 30, 70),), size=46, top=0.06, capitals=False, glow=_WHITE), _romance
    ),
    "Horror": Style((30, 18, 24), (12, 6, 10), Lettering(((214, 16, 24),), size=62, top=0.68, jumble=14), _horror),
    "Sci-Fi": Style((10, 16, 52), (24, 36, 92), Lettering(((140, 240, 255),), size=44, top=0.05), _science_fiction),
    "Documentary": Style(
        (206, 206, 204), (178, 178, 176), Lettering(((24, 24, 26),), size=34, top=0.03, capitals=False, glow=_WHITE), _documentary
    ),
    "Animation": Style(
        (70, 200, 255),
        (120, 230, 90),
        Lettering(((255, 50, 60), (255, 220, 0), (40, 90, 255)), size=62, top=0.05, jumble=8, outline=_WHITE),
        _animation,
    ),
    "Western": Style(
        (236, 176, 96), (206, 130, 66), Lettering(((86, 36, 18),), size=54, top=0.05, outline=(86, 36, 18), glow=_WHITE), _western
    ),
}


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _mixed(colours: Sequence[_Colour], rng: random.Random) -> _Colour:
    """Returns the weighted mean of the colours, the first with twice the weight of each other, plus a little noise."""
    weights = [2] + [1] * (len(colours) - 1)
    red, green, blue = (
        sum(weight * level for weight, level in zip(weights, levels, strict=True)) // sum(weights) + rng.randint(-12, 12)
        for levels in zip(*colours, strict=True)
    )
    return red, green, blue


def _gradient(top: _Colour, bottom: _Colour) -> Image.Image:
    size = (_W, _H)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), Image.linear_gradient("L").resize(size))


def _set_title(image: Image.Image, title: str, lettering: Lettering, rng: random.Random) -> None:
    # Pillow's built-in font has no accented letters.
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    words = (plain.upper() if lettering.capitals else plain).split()
    middle = (len(words) + 1) // 2
    lines = [" ".join(words[:middle]), " ".join(words[middle:])] if len(words) > 2 else words
    longest = max(_font(lettering.size).getlength(line) for line in lines)
    size = min(lettering.size, int(lettering.size * 0.86 * _W / longest))
    font, layer = _font(size), Image.new("RGBA", image.size)
    pen = ImageDraw.Draw(layer)
    for row, line in enumerate(lines):
        x = (_W - font.getlength(line)) / 2
        for index, letter in enumerate(line):
            y = _H * lettering.top + row * size * 1.1 + rng.randint(-lettering.jumble, lettering.jumble)
            colour = lettering.colours[index % len(lettering.colours)]
            pen.text(
                (x, y),
                letter,
                colour,
                font,
                stroke_width=2 if lettering.outline is None else 4,
                stroke_fill=lettering.outline or colour,
            )
            x += font.getlength(letter)
    if lettering.tilt:
        layer = layer.rotate(lettering.tilt, Image.Resampling.BILINEAR, center=(_W / 2, _H * lettering.top + size))
    # The glow keeps the title legible on the colours of another genre.
    image.paste(lettering.glow, mask=layer.getchannel("A").filter(ImageFilter.BoxBlur(7)).point(lambda level: level // 2))
    image.paste(layer, mask=layer)


def _set_credits(image: Image.Image, rng: random.Random) -> None:
    """Draws the small print at the bottom."""
    pen = ImageDraw.Draw(image, "RGBA")
    for row in range(3):
        half = rng.randint(110, 165)
        y = _H - 44 + 13 * row
        for x in range(200 - half, 200 + half, 9):
            pen.rectangle((x, y, x + rng.randint(4, 8), y + 8), fill=(128, 128, 128, 170))


def _with_grain(image: Image.Image, rng: random.Random) -> Image.Image:
    noise = Image.frombytes("L", image.size, rng.randbytes(WIDTH * HEIGHT)).point(lambda level: 128 + (level - 128) // 10)
    return ImageChops.add(image, noise.convert("RGB"), offset=-128)
