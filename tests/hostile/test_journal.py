"""The journal of an in-place addition, written by a stranger: nothing sealed goes because it says so."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sanac.core.artifact.staging import open_addition
from tests.conftest import Sanac
from tests.hostile.canaries import Canaries

SEALED = (
    "README.md", "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
    "text_encoder/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors", "transformer/model.onnx",
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
)  # fmt: skip
OURS = ("sanac.json", "origin.json", "measurements/metrics.json", "measurements/evaluate-shapes.json", ".sanac/lock")
DETOURS = (
    "./README.md", "vae/../README.md", "vae//config.json", "../outside/0-canary", "../../etc/hostname", "/etc/hostname",
    "/", "", ".", "..", "vae", "vae/", "transformer", "a\0b", "x" * 5000, "link/0-canary", "~/x", "vae/config.json/x",
    "\\..\\x", "%2e%2e/outside/0-canary",
)  # fmt: skip
NO_NAMES: tuple[Any, ...] = (None, 7, True, [], ["README.md"], {"path": "README.md"}, 1.5)
BROKEN = (
    b"", b"[]", b"null", b'{"names": "README.md"}', b'{"names": {"README.md": 1}}', b'{"other": []}', b"{", b"\xff\xfe",
    b'{"names": ["README.md"], "names": ["sanac.json"]}', b"[" * 100_000,
)  # fmt: skip


def left(artifact: Path, content: bytes) -> None:
    """The state of an addition that was killed, with this journal; older than all files, as a stranger can make it."""
    (artifact / ".sanac").mkdir()
    (artifact / ".sanac" / "lock").touch()
    (artifact / ".sanac" / "names.json").write_bytes(content)
    os.utime(artifact / ".sanac" / "names.json", (1, 1))


def kept(artifact: Path) -> dict[str, bytes]:
    files = (path for path in artifact.rglob("*") if path.is_file() and ".sanac" not in path.parts)
    return {path.relative_to(artifact).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "content",
    [*(json.dumps({"names": [name]}).encode() for name in (*SEALED, *OURS, *DETOURS, *NO_NAMES)), *BROKEN],
    ids=lambda content: content[:40].decode(errors="replace").replace("/", "."),
)
def test_what_it_names_stays(content: bytes, artifact: Path, canaries: Canaries) -> None:
    (canaries.home / "0-canary").write_bytes(b"of somebody else")
    (artifact / "link").symlink_to(canaries.home)
    before, outside = kept(artifact), canaries.state()
    left(artifact, content)
    with open_addition(artifact, "k" * 64, ["vae_decoder/model.onnx"]):
        pass
    assert kept(artifact) == before
    assert canaries.state() == outside
    assert not (artifact / ".sanac").exists()


def test_all_at_once_and_without_a_manifest(artifact: Path, sanac: Sanac) -> None:
    """Whatever order: the manifest can't be made to disappear first."""
    before = kept(artifact)
    left(artifact, json.dumps({"names": ["sanac.json", *SEALED, *OURS]}).encode())
    words = ("--in-place", "--component", "transformer", "--precision", "fp32", "--no-verify", "--force")
    assert sanac("export", "artifact", *words).code == 0
    after = kept(artifact)
    assert after == before
    (artifact / "sanac.json").unlink()
    left(artifact, json.dumps({"names": [*SEALED]}).encode())
    assert sanac("export", "artifact", *words).code == 2, "a plain model is never written to"
    with open_addition(artifact, "k" * 64, ["vae_decoder/model.onnx"]):
        pass
    assert kept(artifact) == {name: data for name, data in before.items() if name != "sanac.json"}


@pytest.mark.parametrize("since", ["before", "after"])
def test_what_a_killed_run_left_goes(since: str, artifact: Path) -> None:
    """Files that it wrote are no older than its journal; older ones are somebody's."""
    before = kept(artifact)
    (artifact / "vae_decoder").mkdir()
    for name in ("vae_decoder/model.onnx", "vae_decoder/model.fp32.rtx-1.sm89.engine.unfinished", "transformer/x.log"):
        (artifact / name).write_bytes(b"half of it")
    names = ["vae_decoder/model.onnx", "vae_decoder/model.fp32.rtx-1.sm89.engine.unfinished", "transformer/x.log"]
    left(artifact, json.dumps({"names": names}).encode())
    if since == "after":
        os.utime(artifact / ".sanac" / "names.json")
        os.utime(artifact / ".sanac" / "names.json", (2e9, 2e9))
    with open_addition(artifact, "k" * 64, ["text_encoder/model.onnx"]):
        pass
    assert (kept(artifact) == before) == (since == "before")


FINISHED = (
    "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "tokenizer/tokenizer.json", "transformer/config.json", "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
)  # fmt: skip


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "change",
    [flipped, lambda data: data[:-1] + b"?", lambda data: data[:-1], lambda data: data + b" ", lambda _: b""],
    ids=["one bit", "last byte", "cut", "longer", "empty"],
)
@pytest.mark.parametrize("name", FINISHED, ids=lambda name: name.replace("/", "."))
def test_a_finished_file_that_was_changed_is_written_again(
    name: str, change: Callable[[bytes], bytes], unfinished: Path, sanac: Sanac, exported: Path
) -> None:
    (unfinished / name).write_bytes(change((unfinished / name).read_bytes()))
    ran = sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "out")
    assert ran.code == 0, ran.err
    assert (unfinished.parent / "out" / name).read_bytes() == (exported / name).read_bytes()
    assert sanac("inspect", "out", "--scan").code == 0


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"path":"vae/config.json"', '"path":"../outside/0-canary"'),
        ('"path":"vae/config.json"', '"path":"/etc/hostname"'),
        ('"path":"vae/config.json"', '"path":"vae/../vae/config.json"'),
        ('"path":"vae/config.json"', '"path":""'),
        ('"path":"vae/config.json"', '"path":7'),
        ('"path":"vae/config.json"', '"path":null'),
        ('"blake3":"', '"blake3":7,"x":"'),
        ('"size":', '"size":"1","x":'),
        ('"labels":{', '"labels":[],"x":{'),
        ("{", "["),
        ('"key":', '"kez":'),
    ],
)
def test_a_journal_of_finished_files_that_lies(
    old: str, new: str, unfinished: Path, sanac: Sanac, canaries: Canaries
) -> None:
    """Refused with the way out, or what it says is not believed; what is outside stays."""
    (canaries.home / "0-canary").write_bytes(b"of somebody else")
    before, journal = canaries.state(), unfinished / ".sanac" / "journal.jsonl"
    text = journal.read_text()
    assert old in text
    journal.write_text(text.replace(old, new))
    ran = sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "out")
    assert ran.code in (0, 3), ran.err
    assert canaries.state() == before
    if ran.code:
        assert "--fresh" in ran.err
        assert sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "out", "--fresh").code == 0
    assert sanac("inspect", "out", "--scan").code == 0


def test_two_finished_files_that_changed_places(unfinished: Path, sanac: Sanac) -> None:
    one, other = (unfinished / name / "config.json" for name in ("vae", "text_encoder"))
    shutil.move(one, unfinished / "kept")
    shutil.move(other, one)
    shutil.move(unfinished / "kept", other)
    assert sanac("prune", "sanac:tiny", "--keep", "0-1", "--out", "out").code == 0
    assert sanac("inspect", "out", "--scan").code == 0
    assert json.loads((unfinished.parent / "out/vae/config.json").read_text())["_class_name"] == "AutoencoderDC"
