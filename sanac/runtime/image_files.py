"""Writes images: PNGs with their generation settings as metadata, and contact sheets. Reads PNGs of strangers."""

import io
import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, PngImagePlugin

from sanac.core.atomic import atomic_path
from sanac.core.confined import AnyPath
from sanac.core.errors import InvalidInput

_GAP, _LINE = 8, 14  # pixels around an image on a sheet, and per line of its caption
_LEAST = 160  # pixels: smaller images are enlarged on a sheet
_LARGEST_FILE = 300_000_000  # bytes
_LARGEST = 8192  # pixels, along a side
_PNG = ("PNG",)
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def save_picture(path: AnyPath, picture: NDArray[np.uint8], about: Mapping[str, Any]) -> None:
    """Write a PNG with the entries of `about` as text metadata; values other than strings become JSON."""
    save_image(Image.fromarray(picture), path, about)


def save_image(image: Image.Image, path: AnyPath, about: Mapping[str, Any]) -> None:
    """Write an image of PIL as `save_picture` writes an array."""
    notes = PngImagePlugin.PngInfo()
    for name, value in about.items():
        notes.add_itxt(name, metadata_text(value))
    _save(image, path, notes)


def metadata_text(value: Any) -> str:
    """A metadata entry's value as the text that is stored."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def read_metadata(path: AnyPath) -> dict[str, str]:
    """The text metadata of a PNG; empty if the file is something else. Its pixels are not decoded."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return {str(name): str(value) for name, value in image.info.items() if isinstance(value, str)}
    except _BROKEN:
        return {}


def read_picture(path: AnyPath) -> NDArray[np.uint8]:
    """The RGB pixels of a PNG."""
    return decode_picture(read_png(path), str(path))


def read_png(path: AnyPath) -> bytes:
    """The bytes of a whole PNG with the right checksums; InvalidInput for anything else. No pixels are decoded."""
    return read_image(path, _PNG)


def read_image(path: AnyPath, formats: Sequence[str]) -> bytes:
    """The bytes of an image in one of these formats of PIL; InvalidInput for anything else. No pixels are decoded."""
    try:
        with path.open("rb") as file:
            data = bytes(file.read(_LARGEST_FILE + 1))
    except OSError as error:
        raise InvalidInput(f"cannot read {path}", why=error.strerror or str(error)) from error
    if len(data) > _LARGEST_FILE:
        raise InvalidInput(f"{path} is too large for an image", why=f"the maximum is {_LARGEST_FILE:,} bytes")
    with _opened(data, str(path), formats) as image:
        image.verify()
    return data


def decode_picture(data: bytes, name: str, formats: Sequence[str] = _PNG) -> NDArray[np.uint8]:
    """The RGB pixels of an image's bytes, what is transparent in white; `name` is for messages."""
    with _opened(data, name, formats) as image:
        shown: Image.Image = image
        if image.mode.startswith("I"):  # 16-bit grey, which PIL would clip at 255
            shown = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        elif image.has_transparency_data:
            layer = image.convert("RGBA")
            shown = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return np.asarray(shown.convert("RGB"))


@contextmanager
def _opened(data: bytes, name: str, formats: Sequence[str]) -> Iterator[Image.Image]:
    """An image that isn't decoded yet; InvalidInput for what goes wrong inside, and for images of huge sizes."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a bomb's: the sides are checked here
            with Image.open(io.BytesIO(data), formats=list(formats)) as image:
                if max(image.size) > _LARGEST:
                    size = "x".join(map(str, image.size))
                    raise InvalidInput(f"{name} is too large an image", why=f"{size}; at most {_LARGEST} along a side")
                yield image
    except _BROKEN as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        hint = "replace it, or delete it and generate it again"
        raise InvalidInput(f"{name} is not a readable {', '.join(formats)}", why=why, hint=hint) from error


def _save(image: Image.Image, path: AnyPath, notes: PngImagePlugin.PngInfo | None = None) -> None:
    try:
        with atomic_path(path) as partial:
            image.save(partial, format="PNG", optimize=True, pnginfo=notes)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def save_sheet(
    path: AnyPath,
    pictures: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    verdicts: Sequence[bool | None] | None = None,
    columns: int = 0,
) -> None:
    """Write a contact sheet of images and captions; `verdicts` frame right images green and wrong ones red."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    height, width = pictures[0].shape[:2]
    scale = max(1, math.ceil(_LEAST / width))
    cell = width * scale
    texts = [_lines(caption, max(8, cell // 7)) for caption in captions]
    row = height * scale + _LINE * max(map(len, texts)) + 2 * _GAP
    sheet = Image.new("RGB", (columns * (cell + _GAP) + _GAP, math.ceil(len(pictures) / columns) * row + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for index, picture in enumerate(pictures):
        x, y = _GAP + index % columns * (cell + _GAP), _GAP + index // columns * row
        shown = Image.fromarray(picture).resize((cell, height * scale), Image.Resampling.NEAREST)
        sheet.paste(shown, (x, y))
        if verdicts is not None and verdicts[index] is not None:
            frame = (x - 2, y - 2, x + cell + 1, y + height * scale + 1)
            pen.rectangle(frame, outline="#1a9641" if verdicts[index] else "#d7191c", width=3)
        for line, text in enumerate(texts[index]):
            pen.text((x, y + height * scale + 4 + _LINE * line), text, fill="black")
    _save(sheet, path)


def _lines(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.encode("latin-1", "replace").decode("latin-1").split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:4]


def make_folder(folder: Path) -> Path:
    """Create a folder if needed and return it; InvalidInput if it isn't writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"cannot write to {folder}", why=error.strerror or str(error), hint="choose another --out"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInput(f"cannot write to {folder}", why="permission denied", hint="choose another --out")
    return folder


@contextmanager
def made_folder(folder: Path) -> Iterator[Path]:
    """Create a folder for the context; remove it on failure if it was created here and is still empty."""
    there = folder.exists()
    make_folder(folder)
    try:
        yield folder
    except BaseException:
        if not there and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _unwritable(path: AnyPath, why: str) -> InvalidInput:
    return InvalidInput(f"cannot write {path}", why=why, hint="choose another --out")
