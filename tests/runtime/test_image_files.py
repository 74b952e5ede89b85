"""PNGs of strangers: pixels as they are shown, or an error that names the file."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.runtime.image_files import decode_picture, read_picture, read_png

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG")
    return data.getvalue()


GOOD = png(Image.fromarray(PICTURE))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A small file of a huge image."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes((side // 8 + 1) * 16))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


HOSTILE = {
    "empty": b"",
    "text": b"not an image",
    "truncated": GOOD[: len(GOOD) // 2],
    "without its end": GOOD[:-20],
    "another checksum": GOOD[:60] + bytes([GOOD[60] ^ 255]) + GOOD[61:],
    "a bomb that PIL would decode": bomb(12_000),
    "a bomb": bomb(30_000),
    "a great bomb": bomb(2_000_000),
    "a GIF": b"GIF89a" + bytes(30),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_whole_png_is_named(name: str, tmp_path: Path) -> None:
    file = tmp_path / "0000.png"
    file.write_bytes(HOSTILE[name])
    with pytest.raises(InvalidInput, match=r"0000\.png") as refused:
        read_png(ConfinedPath(tmp_path) / "0000.png")
    assert refused.value.why


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "outside.png").write_bytes(GOOD)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(tmp_path / "outside.png")
    os.mkfifo(inside / "pipe.png")
    for place, name in ((tmp_path, "folder.png"), (tmp_path, "none.png"), (inside, "link.png"), (inside, "pipe.png")):
        with pytest.raises(InvalidInput, match=name):
            read_picture(ConfinedPath(place) / name)


def test_pixels_that_can_t_be_decoded_are_named() -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"no zlib") + chunk(b"IEND", b"")
    with pytest.raises(InvalidInput, match=r"x\.png is not a readable PNG"):
        decode_picture(data, "x.png")


def test_pixels_are_as_shown() -> None:
    assert (decode_picture(GOOD, "x") == PICTURE).all()
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1023
    assert (decode_picture(png(Image.fromarray(deep)), "x") == (deep // 257).astype(np.uint8)[..., None]).all()
    clear = np.zeros((8, 8, 4), dtype=np.uint8)
    assert (decode_picture(png(Image.fromarray(clear)), "x") == 255).all(), "transparent is white, not black"
    grey = Image.fromarray(PICTURE[..., 0])
    assert (decode_picture(png(grey), "x") == PICTURE[..., :1]).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert (decode_picture(png(palette), "x") == [0, 0, 255]).all()
