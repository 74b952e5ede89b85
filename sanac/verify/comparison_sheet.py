"""Draws a comparison: a row per prompt, a column per model, with labels above the columns and beside the rows."""

import math
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from sanac.judge.image_metrics import Picture, psnr, ssim
from sanac.verify.compare_show import Entry, header_of, similarity_text

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_LEAST, _MOST = 224, 512  # pixels: side of a cell
_GAP, _TEXT, _LINE, _TITLE = 12, 14, 20, 17  # pixels: between cells, font size, line height, font size of names
_HEAD = 4  # pixels: below a column's name
_PROMPT = 220  # pixels: width of the prompts' column
_GREY = "#666666"


def draw_comparison(
    models: Sequence[Entry], pictures: Sequence[Sequence[Picture]], prompts: Sequence[str]
) -> Image.Image:
    """The sheet of a comparison: `models` as `compare.json` describes them, and the pictures of each."""
    captions = [["" for _ in prompts]]
    captions += [[*map(similarity_text, one["against_first"]["similarity"])] for one in models[1:]]
    return draw_sheet(pictures, [[*header_of(one)] for one in models], prompts, captions)


def draw_pairs(
    expected: Sequence[Picture], found: Sequence[Picture], headers: Sequence[Sequence[str]], prompts: Sequence[str]
) -> Image.Image:
    """Images of a reference and of a candidate side by side, with PSNR and SSIM below each pair."""
    alike = [
        {"psnr": psnr(ours, theirs), "ssim": ssim(ours, theirs)} for ours, theirs in zip(found, expected, strict=True)
    ]
    return draw_sheet([expected, found], headers, prompts, [["" for _ in alike], [*map(similarity_text, alike)]])


def draw_sheet(
    columns: Sequence[Sequence[Picture]],
    headers: Sequence[Sequence[str]],
    prompts: Sequence[str],
    captions: Sequence[Sequence[str]],
) -> Image.Image:
    """The sheet; `headers` are lines per column, the first one its name, and `captions` are lines below pictures."""
    largest = max(max(picture.shape[:2]) for column in columns for picture in column)
    cell = min(_MOST, largest * math.ceil(_LEAST / largest))
    head = _GAP + _HEAD + _LINE * max(map(len, headers)) + _GAP // 2
    row = cell + _LINE * max(len(text.splitlines()) for column in captions for text in column) + _GAP
    width = _PROMPT + 2 * _GAP + len(columns) * (cell + _GAP)
    sheet = Image.new("RGB", (width, head + len(prompts) * row + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (column, lines) in enumerate(zip(columns, headers, strict=True)):
        left = _PROMPT + 2 * _GAP + place * (cell + _GAP)
        for number, text in enumerate(lines):
            font = _font(_TEXT if number else _TITLE)
            top = _GAP + number * _LINE + (_HEAD if number else 0)
            pen.text((left, top), _cut(text, cell, font), "black" if not number else _GREY, font)
        for number, picture in enumerate(column):
            top = head + number * row
            shown = _fitted(picture, cell)
            sheet.paste(shown, (left + (cell - shown.width) // 2, top + (cell - shown.height) // 2))
            for line, text in enumerate(captions[place][number].splitlines()):
                pen.text((left, top + cell + 3 + line * _LINE), _cut(text, cell, _font(_TEXT)), _GREY, _font(_TEXT))
    for number, prompt in enumerate(prompts):
        lines = _wrapped(prompt, _PROMPT, _font(_TEXT), (cell - 4) // _LINE)
        for place, text in enumerate(lines):
            pen.text((_GAP, head + number * row + place * _LINE), text, "black", _font(_TEXT))
    return sheet


def _fitted(picture: Picture, cell: int) -> Image.Image:
    """A picture scaled to fit a square: small ones by a whole factor with hard pixels, large ones smoothly."""
    image, side = Image.fromarray(picture), max(picture.shape[:2])
    if side > cell:
        return image.resize(_scaled(image, cell / side), Image.Resampling.LANCZOS)
    return image.resize(_scaled(image, cell // side), Image.Resampling.NEAREST)


def _scaled(image: Image.Image, factor: float) -> tuple[int, int]:
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


@cache
def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _cut(text: str, width: int, font: Font) -> str:
    """A line that fits `width`, with an ellipsis where it was cut."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _wrapped(text: str, width: int, font: Font, most: int) -> list[str]:
    """The words of a text in at most `most` lines that fit `width`."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]} ..."]
    return [_cut(line, width, font) for line in lines]
