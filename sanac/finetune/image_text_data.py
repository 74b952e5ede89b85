"""Image-caption data from users: a folder of images and text files, WebDataset tars, or the shapes world.

Nothing is unpacked to disk. Unreadable samples are skipped and reported; more than one in twenty is an error.
"""

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from sanac.core import json_files
from sanac.core.checkpoint.locate import inside
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.finetune import shapes_data

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TOLERATED = 0.05  # share of samples that may be unreadable
_LARGEST = 200_000_000  # most bytes of an image file
_NO_CAPTION = "has no caption"
_NAMED = 10  # most skipped samples listed in a message
_BROKEN = (OSError, ValueError, SyntaxError, TypeError, IndexError, EOFError, struct.error, zlib.error)


@dataclass(frozen=True, slots=True)
class ImageText:
    """An image and its caption."""

    name: str
    image: Image.Image
    caption: str


@dataclass
class SkipReport:
    """Number of samples read, and the name and reason of each skipped one."""

    seen: int = 0
    skipped: list[str] = field(default_factory=list)

    def check(self, source: str, reporter: Reporter) -> None:
        """Warn about skipped samples; InvalidInput if there are too many."""
        if not self.skipped:
            return
        some = "; ".join(self.skipped[:_NAMED]) + ("; ..." if len(self.skipped) > _NAMED else "")
        text = f"{len(self.skipped)} of {self.seen} samples of {source} can't be used"
        if len(self.skipped) > TOLERATED * self.seen:
            why = f"more than {TOLERATED:.0%} are unusable: {some}"
            raise InvalidInput(text, why=why, hint=self._hint, problems=self.skipped)
        reporter.warn(f"{text}: {some}")

    @property
    def _hint(self) -> str:
        """What to do about the most frequent reason."""
        uncaptioned = sum(reason.endswith(_NO_CAPTION) for reason in self.skipped)
        if 2 * uncaptioned >= len(self.skipped):
            return "put the caption of NAME.png into NAME.txt beside it"
        return "replace or remove the images that can't be read"


@dataclass(frozen=True)
class Source:
    """A source of image-caption pairs in a fixed order."""

    name: str
    identity: str
    files: tuple[Path, ...] = ()  # tars, or images
    boundary: Path | None = None
    scenes: int = 0
    seed: int = 0

    def count(self) -> int:
        """Number of samples; InvalidInput if a tar is truncated, before any encoding."""
        return self.scenes or sum(_members(path) if path.suffix == ".tar" else 1 for path in self.files)

    def check_captions(self) -> None:
        """InvalidInput, before any encoding, if too many images have no caption beside them."""
        report = SkipReport()
        for path in self.files:
            if path.suffix != ".tar":
                report.seen += 1
                if not _caption_beside(path, self.boundary).strip():
                    report.skipped.append(f"{path.name} {_NO_CAPTION}")
        if len(report.skipped) > TOLERATED * report.seen:
            report.check(self.name, NULL_REPORTER)

    def raw(self) -> Iterator[tuple[str, bytes, str]]:
        """Yield (name, bytes of the image file, caption) of every sample, undecoded."""
        for path in self.files:
            if path.suffix == ".tar":
                yield from _in_tar(path)
            else:
                yield path.name, _bytes(path), _caption_beside(path, self.boundary)

    def pairs(self, skip_report: SkipReport, size: int, first: int = 0) -> Iterator[ImageText | None]:
        """Yield samples from number `first` as square images of `size` pixels; None for each skipped one."""
        if self.scenes:
            yield from self._drawn(size, first)
            return
        for number, (name, data, caption) in enumerate(self.raw()):
            if number < first:
                continue
            skip_report.seen += 1
            found = _opened(data, size) if caption.strip() else _NO_CAPTION
            if isinstance(found, str):
                skip_report.skipped.append(f"{name} {found}")
                yield None
            else:
                yield ImageText(name, found, caption.strip())

    def _drawn(self, size: int, first: int) -> Iterator[ImageText]:
        chosen = shapes_data.draw_lessons(self.scenes, np.random.default_rng(self.seed))
        for number in range(first, self.scenes):
            rng = np.random.default_rng((self.seed, number))
            picture = shapes_data.pictures(chosen[number : number + 1], size, rng)[0]
            ways = shapes_data.captions(int(chosen[number]))
            yield ImageText(f"scene {number}", Image.fromarray(picture), ways[int(rng.integers(len(ways)))])


def open_source(word: str, *, scene_count: int, seed: int) -> Source:
    """The data source named by `word`: `shapes`, a folder of images or tars, or one tar."""
    if word == "shapes":
        return Source(
            "the shapes world", json_files.key_of(["shapes", scene_count, seed]), scenes=scene_count, seed=seed
        )
    path = Path(word)
    if not path.exists():
        raise UsageError(f"{word} does not exist", hint="--data shapes, or a folder of images with captions or of tars")
    boundary = (path if path.is_dir() else path.parent).resolve()
    try:
        files = sorted(boundary.rglob("*")) if path.is_dir() else [path.resolve()]
        tars = [file for file in files if file.suffix == ".tar" and file.is_file()]
        images = [file for file in files if file.suffix.lower() in IMAGES and file.is_file()]
        chosen = tuple(inside(boundary, file) for file in tars or images)
        stats = [(str(file.relative_to(boundary)), file.stat().st_size, file.stat().st_mtime_ns) for file in chosen]
        texts = [(str(file), file.stat().st_mtime_ns) for file in files if file.suffix in {".txt", ".json"}]
    except OSError as error:
        raise InvalidInput(f"cannot read {word}", why=error.strerror or str(error)) from error
    if not chosen:
        raise InvalidInput(f"{word} contains neither images nor tars", why=f"images are {', '.join(IMAGES)}")
    return Source(word, json_files.key_of(["files", stats, texts]), chosen, boundary)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    except OSError:
        return b""


def _caption_beside(image: Path, boundary: Path | None) -> str:
    """Caption of an image file from NAME.txt or NAME.json in the same folder; '' if there is none."""
    for suffix in (".txt", ".json"):
        path = image.with_suffix(suffix)
        if path.is_file() and boundary and path.stat().st_size < 1_000_000:
            return _caption(suffix, inside(boundary, path).read_bytes())
    return ""


def _caption(suffix: str, data: bytes) -> str:
    try:
        text = data.decode("utf-8")
        found = json.loads(text) if suffix == ".json" else text
    except ValueError:
        return ""
    if isinstance(found, dict):
        found = next((found[key] for key in ("caption", "prompt", "text") if isinstance(found.get(key), str)), "")
    return found if isinstance(found, str) else ""


def _opened(data: bytes, size: int) -> Image.Image | str:
    """The center crop in RGB, resized to `size` pixels; or the reason why the image can't be used."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            shown = image.convert("RGBA") if image.mode in {"P", "LA", "PA"} else image.copy()
            if image.mode.startswith("I"):  # 16-bit grey, which PIL would clip at 255
                shown = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
            if shown.mode == "RGBA":
                white = Image.new("RGBA", shown.size, "white")
                shown = Image.alpha_composite(white, shown)
            shown = shown.convert("RGB")
    except (*_BROKEN, Image.DecompressionBombError):
        return "is not a readable image"
    side = min(shown.size)
    left, top = ((edge - side) // 2 for edge in shown.size)
    return shown.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.LANCZOS)


def _in_tar(path: Path) -> Iterator[tuple[str, bytes, str]]:
    """Yield the samples of a WebDataset tar: consecutive members with the same stem are one sample."""
    image, caption, key = b"", "", ""
    last = "the beginning"
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                stem, _, ending = member.name.rpartition("/")[2].partition(".")
                folder = member.name.rpartition("/")[0]
                if key and key != f"{folder}/{stem}":
                    yield f"{path.name}:{key.lstrip('/')}", image, caption
                    image, caption = b"", ""
                key, suffix = f"{folder}/{stem}", f".{ending.lower()}"
                if member.size <= _LARGEST and (suffix in IMAGES or suffix in {".txt", ".json"}):
                    file = archive.extractfile(member)
                    data = file.read() if file else b""
                    if len(data) != member.size:
                        raise tarfile.ReadError("unexpected end of data")
                    if suffix in IMAGES:
                        image = data
                    else:
                        caption = caption or _caption(suffix, data)
                last = member.name
            _whole(path, archive.offset)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidInput(
            f"{path} is truncated or damaged", why=f"{error}, after {last}", hint="fetch the file again"
        ) from error
    if key:
        yield f"{path.name}:{key.lstrip('/')}", image, caption


def _members(path: Path) -> int:
    """Number of images in a tar, counted from its headers."""
    try:
        with tarfile.open(path, "r:") as archive:
            names = [member.name for member in archive if member.isfile()]
            _whole(path, archive.offset)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InvalidInput(f"{path} is truncated or damaged", why=str(error), hint="fetch the file again") from error
    return sum(name.lower().endswith(IMAGES) for name in names)


def _whole(path: Path, end: int) -> None:
    """Raise ReadError if a tar lacks the zero blocks at its end: it was truncated between two members."""
    with path.open("rb") as file:
        file.seek(end)
        if file.read(512) != bytes(512):
            raise tarfile.ReadError("its end is missing")
