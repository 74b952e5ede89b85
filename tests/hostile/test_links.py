"""Links in the place of each file and each folder: none is followed, by any verb that comes by."""

import shutil
from pathlib import Path

import pytest

from sanac.core.confined import ConfinedPath, LinkRefused
from sanac.core.errors import InvalidInput
from tests.conftest import Sanac
from tests.hostile.canaries import Canaries
from tests.hostile.conftest import CUT

GATES = '[[gate]]\nmetric = "evaluate-shapes/overall"\nmin = 0.0\n'
VERBS = {
    "scan": ("inspect", "artifact", "--scan"),
    "gate": ("gate", "artifact", "--gates", "gates.toml"),
    "export": (
        "export", "artifact", "--in-place", "--component", "vae", "--precision", "fp32", "--no-verify", "--force",
    ),
    "evaluate": ("evaluate", "artifact", "--suite", "shapes", "--images", "12", "--steps", "1"),
    "verify": ("verify", "artifact", "--against", "artifact", "--pictures", "0"),
}  # fmt: skip
SEALED = (
    "README.md", "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/model.safetensors", "tokenizer/tokenizer.json", "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors", "vae/config.json",
)  # fmt: skip
FOLDERS = ("scheduler", "text_encoder", "tokenizer", "transformer", "vae")
GRAPH = "transformer/model.onnx"
MEASURED = ("measurements", "measurements/metrics.json", "measurements/evaluate-shapes.json")
CASES = [
    *((name, "scan", 3) for name in (*SEALED, *FOLDERS, GRAPH)),
    *((name, "export", 3) for name in (*SEALED, *FOLDERS)),
    *((name, "gate", 3) for name in (*SEALED[:3], *FOLDERS[:2], *MEASURED[:2])),
    *((name, "verify", 3) for name in (GRAPH, *SEALED[:2], *FOLDERS[:2])),
    *((name, "evaluate", 3) for name in (MEASURED[0], *FOLDERS[:2])),
    # a measurement is written again under its own name: a link there is replaced, and not read
    ("measurements/evaluate-shapes.json", "evaluate", 0), ("measurements/evaluate-shapes.png", "evaluate", 0),
    ("measurements/metrics.json", "evaluate", 3),
]  # fmt: skip


@pytest.fixture
def gates(tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(GATES)


def test_without_links_all_of_them_pass(artifact: Path, sanac: Sanac, gates: None) -> None:
    assert {name: sanac(*words).code for name, words in VERBS.items()} == dict.fromkeys(VERBS, 0)


@pytest.mark.parametrize(("name", "verb", "code"), CASES, ids=lambda value: str(value).replace("/", "."))
def test_in_an_artifact(
    name: str, verb: str, code: int, artifact: Path, sanac: Sanac, gates: None, canaries: Canaries
) -> None:
    canaries.replace(artifact / name)
    before = canaries.state()
    canaries.watch()
    ran = sanac(*VERBS[verb])
    assert canaries.read() == []
    assert canaries.state() == before
    assert ran.code == code, ran.err
    assert code == 0 or "is a link" in ran.err or "points outside" in ran.err


@pytest.mark.parametrize("verb", ["scan", "gate", "export"])
def test_the_manifest_itself(verb: str, artifact: Path, sanac: Sanac, gates: None, canaries: Canaries) -> None:
    """A folder whose manifest is a link is treated as a plain model, not as an artifact."""
    canaries.replace(artifact / "sanac.json")
    before = canaries.state()
    canaries.watch()
    ran = sanac(*VERBS[verb])
    assert canaries.read() == []
    assert canaries.state() == before
    assert ran.code in (0, 2), ran.err


NAMES = (
    ".sanac", ".sanac/lock", ".sanac/journal.jsonl", *SEALED[1:], *FOLDERS, "vae/diffusion_pytorch_model.safetensors",
    "tokenizer/tokenizer_config.json",
)  # fmt: skip


@pytest.mark.parametrize("fresh", [(), ("--fresh",)], ids=["", "fresh"])
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.replace("/", "."))
def test_in_what_is_resumed(
    name: str, fresh: tuple[str, ...], unfinished: Path, sanac: Sanac, canaries: Canaries, tmp_path: Path
) -> None:
    """Refused; with --fresh the link is deleted without being followed, and the file is written again."""
    canaries.replace(unfinished / name)
    before = canaries.state()
    canaries.watch()
    ran = sanac(*CUT, "out", *fresh)
    assert canaries.read() == []
    assert canaries.state() == before
    if ran.code == 0:
        assert fresh
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]
        assert sanac("inspect", "out", "--scan").code == 0
    else:
        assert (ran.code, "is a link" in ran.err) == (3, True), ran.err
    assert bool(fresh) == (ran.code == 0) or name.startswith(".sanac")


@pytest.mark.parametrize("name", ["sanac.json", "origin.json", "vae/new.json", "new", "sanac.json.unfinished"])
def test_dangling_in_what_is_resumed(name: str, unfinished: Path, sanac: Sanac, canaries: Canaries) -> None:
    """What is written on the way to the end isn't written through a link that leads nowhere yet."""
    (unfinished / name).symlink_to(canaries.home / "new")
    ran = sanac(*CUT, "out")
    assert (ran.code, canaries.state()) == (0, {}), ran.err
    assert not [path for path in (unfinished.parent / "out").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("name", ["workspace.json", "workspace.lock"])
def test_in_a_workspace(name: str, sanac: Sanac, canaries: Canaries, tmp_path: Path) -> None:
    assert sanac("prune", "sanac:tiny", "--keep", "0-1").code == 0
    canaries.replace(tmp_path / "sanac-out" / name)
    before = canaries.state()
    canaries.watch()
    ran = sanac("prune", "sanac:tiny", "--keep", "0-2")
    assert (canaries.read(), canaries.state()) == ([], before)
    assert (ran.code, "is a link" in ran.err) == (3, True), ran.err


def test_in_scores_that_are_kept(sanac: Sanac, canaries: Canaries, tmp_path: Path) -> None:
    words = ("analyze", "sanac:tiny", "--num-prompts", "2", "--timesteps", "2")
    assert sanac(*words).code == 0
    (folder,) = (tmp_path / "sanac-out").glob("analyze-*")
    canaries.replace(folder / "scores.json")
    canaries.replace(folder)
    before = canaries.state()
    canaries.watch()
    ran = sanac(*words)
    assert (canaries.read(), canaries.state()) == ([], before)
    assert (ran.code, "is a link" in ran.err) == (3, True), ran.err


def test_a_workspace_that_is_a_link_is_the_user_s_wish(sanac: Sanac, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "sanac-out").symlink_to(tmp_path / "elsewhere")
    assert sanac("prune", "sanac:tiny", "--keep", "0-1").code == 0
    assert sanac("quantize", "--scheme", "int8-wo", "--component", "transformer").code == 0
    assert list((tmp_path / "elsewhere").glob("prune-*"))


@pytest.fixture
def inside(tmp_path: Path) -> ConfinedPath:
    (tmp_path / "root" / "folder").mkdir(parents=True)
    (tmp_path / "root" / "folder" / "file").write_text("ours")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("theirs")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "folder" / "leaf").symlink_to(tmp_path / "other" / "file")
    return ConfinedPath(tmp_path / "root")


@pytest.mark.parametrize("name", ["link/file", "folder/leaf", "link/new/file", "link"])
@pytest.mark.parametrize(
    "act",
    [
        "open", "read_bytes", "read_text", "stat", "exists", "is_file", "is_dir", "check", "touch", "iterdir",
        "__fspath__",
    ],
)  # fmt: skip
def test_every_access(act: str, name: str, inside: ConfinedPath) -> None:
    if (act, name) == ("iterdir", "folder/leaf"):
        pytest.skip("not a folder")
    with pytest.raises(LinkRefused):
        getattr(inside / name, act)()


def test_writing_and_deleting(inside: ConfinedPath, tmp_path: Path) -> None:
    for act in (
        lambda: (inside / "link/new").write_bytes(b"x"),
        lambda: (inside / "folder/leaf").write_text("x"),
        (inside / "link/new").mkdir,
        lambda: (inside / "link/new/deep").mkdir(parents=True, exist_ok=True),
        (inside / "link/file").unlink,
        lambda: (inside / "link/file").rename(inside / "mine"),
        lambda: (inside / "folder/file").rename(inside / "link/mine"),
        (inside / "link/file").rmtree,
    ):
        with pytest.raises(LinkRefused):
            act()
    (inside / "folder/leaf").unlink()  # the link itself may go
    with pytest.raises(OSError, match="link"):
        (inside / "link").rmtree()
    assert (tmp_path / "other" / "file").read_text() == "theirs"
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["../other/file", "/etc/hostname", "folder/../../other/file", "a\0b"])
def test_names_that_lead_out(name: str, inside: ConfinedPath) -> None:
    with pytest.raises(InvalidInput, match="outside"):
        inside / name


def test_what_is_no_file(inside: ConfinedPath, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "root" / "pipe")
    with pytest.raises(InvalidInput, match="not a regular file"):
        (inside / "pipe").read_bytes()
    with pytest.raises(FileNotFoundError, match="folder/none"):
        (inside / "folder/none").open()
    assert not (inside / "folder/file/below").exists()
    shutil.rmtree(tmp_path / "root")
    assert not inside.exists()


def test_canaries_show_what_happens_to_them(canaries: Canaries, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    copy = canaries.replace(tmp_path / "file")
    before = canaries.state()
    canaries.watch()
    assert canaries.read() == []
    (tmp_path / "file").read_text()
    if not canaries.read():
        pytest.skip("this file system doesn't note when files are read")
    copy.write_text("y")
    assert canaries.state() != before
