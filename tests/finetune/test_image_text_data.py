"""Pictures with captions: what is read, what is skipped, what is refused."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import NullReporter
from sanac.finetune.image_text_data import ImageText, SkipReport, open_source


class Heard(NullReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def png(color: object = "red", size: tuple[int, int] = (40, 30), mode: str = "RGB", form: str = "PNG") -> bytes:
    data = io.BytesIO()
    Image.new(mode, size, color).save(data, form)  # type: ignore[arg-type]
    return data.getvalue()


def folder_of(path: Path, count: int = 40) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (path / f"{number:03d}.png").write_bytes(png())
        (path / f"{number:03d}.txt").write_text(f"picture {number}")
    return path


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(word: Path | str, first: int = 0) -> tuple[list[ImageText | None], SkipReport]:
    source, tally = open_source(str(word), scene_count=20, seed=3), SkipReport()
    return list(source.pairs(tally, 16, first)), tally


def test_a_folder_of_images_and_texts(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", 3)
    (folder / "deeper").mkdir()
    (folder / "deeper" / "a.jpg").write_bytes(png("blue", form="JPEG"))
    (folder / "deeper" / "a.json").write_text(json.dumps({"caption": " a blue picture "}))
    pairs, tally = read(folder)
    assert [pair.caption for pair in pairs if pair] == ["picture 0", "picture 1", "picture 2", "a blue picture"]
    assert all(pair.image.size == (16, 16) and pair.image.mode == "RGB" for pair in pairs if pair)
    assert (tally.seen, tally.skipped) == (4, [])
    later, _ = read(folder, 2)
    assert [pair.name for pair in later if pair] == [pair.name for pair in pairs[2:] if pair]


def test_tars_as_webdataset_writes_them(tmp_path: Path) -> None:
    members = {"a/1.png": png(), "a/1.txt": b"one", "a/1.cls": b"5", "a/2.json": b'{"prompt": "two"}', "a/2.jpg": png()}
    tar_of(tmp_path / "one.tar", members)
    tar_of(tmp_path / "two.tar", {"3.webp": png(form="WEBP"), "3.txt": "drei Äpfel".encode()})
    pairs, tally = read(tmp_path)
    assert [(pair.name, pair.caption) for pair in pairs if pair] == [
        ("one.tar:a/1", "one"),
        ("one.tar:a/2", "two"),
        ("two.tar:3", "drei Äpfel"),
    ]
    assert tally.seen == 3
    assert open_source(str(tmp_path), scene_count=0, seed=0).count() == 3


@pytest.mark.parametrize(
    ("mode", "color"), [("L", 128), ("RGBA", (255, 0, 0, 0)), ("P", 3), ("LA", (9, 9)), ("1", 1), ("I;16", 32_896)]
)
def test_any_mode_becomes_rgb(tmp_path: Path, mode: str, color: object) -> None:
    folder = folder_of(tmp_path / "data", 1)
    (folder / "000.png").write_bytes(png(color, (7, 90), mode))
    (pair,), _ = read(folder)
    assert pair
    assert pair.image.mode == "RGB"
    if mode in {"L", "I;16"}:
        assert pair.image.getpixel((3, 3)) == (128, 128, 128)
    if mode == "RGBA":
        assert pair.image.getpixel((3, 3)) == (255, 255, 255), "what is transparent lies on white"


def test_the_middle_square_is_taken(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", 1)
    wide = Image.new("RGB", (90, 30), "white")
    wide.paste("red", (30, 0, 60, 30))
    wide.save(folder / "000.png")
    (pair,), _ = read(folder)
    assert pair
    assert pair.image.getextrema() == ((255, 255), (0, 0), (0, 0))


def test_what_can_t_be_used_is_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    (folder / "003.png").write_bytes(b"no picture")
    (folder / "004.txt").write_text("  \n")
    pairs, tally = read(folder)
    assert len(pairs) == 40
    assert pairs[3] is None
    assert pairs[4] is None
    heard = Heard()
    tally.check("data", heard)
    (warning,) = heard.warnings
    assert "2 of 40" in warning
    assert "003.png is not a readable image" in warning
    assert "004.png has no caption" in warning


def test_too_much_of_it_is_an_error(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    for number in range(3):
        (folder / f"{number:03d}.png").write_bytes(png()[:50])
    _, tally = read(folder)
    with pytest.raises(InvalidInput, match="3 of 40") as caught:
        tally.check("data", Heard())
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.8])
def test_a_tar_that_is_cut_off(tmp_path: Path, cut: float) -> None:
    path = tar_of(
        tmp_path / "one.tar",
        {f"{n}.{kind}": png() if kind == "png" else b"x" for n in range(9) for kind in ("png", "txt")},
    )
    whole = path.read_bytes()
    end = 9 * 2 * 1024
    path.write_bytes(whole[: int(cut * end)])
    source = open_source(str(path), scene_count=0, seed=0)
    with pytest.raises(InvalidInput, match="truncated"):
        source.count()
    with pytest.raises(InvalidInput, match="truncated") as caught:
        list(source.pairs(SkipReport(), 16))
    assert "its end is missing, after" in caught.value.why
    path.write_bytes(whole[:4096])  # exactly between two members
    with pytest.raises(InvalidInput, match="truncated"):
        list(source.pairs(SkipReport(), 16))


def test_members_that_lead_elsewhere_are_only_names(tmp_path: Path) -> None:
    tar_of(tmp_path / "one.tar", {"../../etc/1.png": png(), "../../etc/1.txt": b"one"})
    (pair,), _ = read(tmp_path)
    assert pair
    assert pair.caption == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.tar"]


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png())
    folder = folder_of(tmp_path / "data", 1)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InvalidInput, match="link"):
        open_source(str(folder), scene_count=0, seed=0)


def test_what_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_source(str(tmp_path / "nowhere"), scene_count=0, seed=0)
    with pytest.raises(InvalidInput, match="neither images nor tars"):
        open_source(str(tmp_path), scene_count=0, seed=0)


def test_the_shapes_world_is_the_same_from_any_number_on() -> None:
    pairs, _ = read("shapes")
    later, _ = read("shapes", 15)
    assert len(pairs) == 20
    for one, other in zip(pairs[15:], later, strict=True):
        assert one
        assert other
        assert one.caption == other.caption
        assert one.image.tobytes() == other.image.tobytes()
