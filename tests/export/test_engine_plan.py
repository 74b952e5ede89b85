"""Engines that TensorRT-RTX builds here, without a GPU: their files, their records, and what is refused before."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sanac.core.artifact.engine_record import NEVER, check_file
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.file_copy import digest_file
from sanac.export import engine_writer
from tests.conftest import Ran, Sanac, Shared, sanac_must

pytest.importorskip("tensorrt_rtx")
EXPORT = ("--component", "transformer", "--no-verify", "--in-place", "--trt")


@pytest.fixture(scope="module")
def six(shared: Shared) -> Path:
    """Six blocks of sanac:tiny, an artifact with a graph in bf16."""

    def making(out: Path) -> None:
        sanac_must("prune", "sanac:tiny", "--keep", "0-5", "--out", out)
        sanac_must("export", out, *EXPORT[:-1])

    return shared("six", making)


def engine_of(ran: Ran) -> Path:
    (name,) = (name for name in ran.json["added"] if name.endswith(".engine"))
    return Path(ran.json["out"], name)


@pytest.mark.parametrize(
    ("scheme", "precision", "forms"),
    [
        (None, "bf16", ["bf16", "fp32"]),
        (None, "fp16", ["fp16", "fp32"]),
        ("int8", "bf16", ["bf16", "fp32", "int8"]),
        ("fp8", "bf16", ["bf16", "fp32", "fp8"]),
        ("int4-wo", "bf16", ["bf16", "fp32", "int4"]),
    ],
)
def test_for_two_gpus_at_once(sanac: Sanac, six: Path, scheme: str | None, precision: str, forms: list[str]) -> None:
    model = six
    if scheme:
        model = Path("quantized")
        prompts = () if scheme.endswith("-wo") else ("--num-prompts", "3", "--timesteps", "4")
        assert sanac("quantize", six, "--scheme", scheme, *prompts, "--out", model).code == 0
    else:
        shutil.copytree(six, "six")
        model = Path("six")
    sized = ("--batch", "1..2", "--size", "64..128")
    ran = sanac("export", model, *EXPORT, "--sm", "89,rtx5090", "--precision", precision, *sized, "--json")
    assert ran.code == 0, ran.err
    path = engine_of(ran)
    assert path.name == f"model.{scheme or precision}.rtx-1.7.1.116.sm89+sm120.engine"
    record = check_file(path)
    assert (list(record.forms), record.capabilities, record.executed) == (forms, (89, 120), NEVER)
    latents = record.inputs["hidden_states"]
    assert (latents["least"], latents["best"], latents["most"]) == ([1, 16, 4, 4], [2, 16, 4, 4], [4, 16, 8, 8])
    assert record.inputs["encoder_hidden_states"]["most"] == [4, 300, 64]
    assert path.stat().st_size > 1_000_000
    opened = open_model(locate(str(model)))
    assert opened.manifest
    assert opened.manifest.files[f"transformer/{path.name}"].blake3 == digest_file(path)
    for name, digest in record.weights.items():
        assert digest_file(path.parent / name) == digest
    assert "Building engine" in path.with_suffix(".log").read_text()
    assert sanac("inspect", model, "--scan").out.count(NEVER) == 1
    no_gpu = sanac("verify", model, "--against", "sanac:tiny", "--backend", "trt", "--json")
    assert (no_gpu.code, "GPU" in no_gpu.err) == (4, True), no_gpu.err
    head = path.read_bytes()
    path.write_bytes(head[:-1])
    cut = sanac("verify", model, "--against", "sanac:tiny", "--backend", "trt")
    assert (cut.code, "is truncated" in cut.err) == (3, True), cut.err
    path.write_bytes(head[:-1] + b"!")
    changed = sanac("verify", model, "--against", "sanac:tiny", "--backend", "trt")
    assert (changed.code, "sealed" in changed.err) == (3, True), changed.err


def test_the_chain_as_typed(sanac: Sanac) -> None:
    """Of the whole pipeline, from the workspace, on a machine without a GPU; cached when it is typed again."""
    assert sanac("prune", "sanac:tiny", "--target-blocks", "6", "--select", "bi").code == 0
    typed = ("export", "--trt", "--sm", "rtx4090")
    ran = sanac(*typed)
    assert ran.code == 0, ran.err
    assert ran.out.count(NEVER) == 4, "an engine for each graph"
    assert "the same function" in ran.out, "graphs were compared"
    (out,) = Path("sanac-out").glob("export-*")
    assert (out / "README.md").read_text().count(NEVER) == 4
    again = sanac(*typed, "--no-verify", "--json")
    assert (again.json["status"], Path(again.json["out"]).name) == ("cached", out.name), again.err
    assert len(again.json["engines"]) == 4


def test_two_builds_are_alike(sanac: Sanac, six: Path) -> None:
    """Seldom to the byte: counters are written out in them, with more digits or fewer. What is known is the same."""
    found = []
    for name in ("one", "other"):
        shutil.copytree(six, name)
        ran = sanac("export", name, *EXPORT, "--sm", "89", "--json")
        assert ran.code == 0, ran.err
        found.append(engine_of(ran))
    records = [check_file(path) for path in found]
    assert replace(records[0], size=0) == replace(records[1], size=0)
    assert abs(records[0].size - records[1].size) < 1000
    one, other = (path.read_bytes() for path in found)
    assert _shared(one, other) > 0.95


def test_turing_has_no_bf16(sanac: Sanac, six: Path) -> None:
    """Weights that are stored in it are cast on the way; of fp32, which attention wants, it has no products."""
    shutil.copytree(six, "six")
    refused = sanac("export", "six", *EXPORT, "--sm", "t4")
    assert (refused.code, "bf16 matmuls, which tensorrt_rtx doesn't support on sm75" in refused.err) == (2, True), (
        refused.err
    )
    refused = sanac("export", "six", *EXPORT, "--sm", "t4", "--precision", "fp16")
    assert (refused.code, "fp32 matmuls, which tensorrt_rtx doesn't support on sm75" in refused.err) == (2, True), (
        refused.err
    )
    text = ("--component", "text-encoder", "--precision", "fp16", *EXPORT[2:])
    ran = sanac("export", "six", *text, "--sm", "t4", "--json")
    assert ran.code == 0, ran.err
    assert check_file(engine_of(ran)).capabilities == (75,)


def test_weights_that_stream(sanac: Sanac, six: Path) -> None:
    shutil.copytree(six, "six")
    ran = sanac("export", "six", *EXPORT, "--sm", "89", "--weight-streaming", "--json")
    assert ran.code == 0, ran.err
    assert check_file(engine_of(ran)).weight_streaming


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--trt", 2, "no target GPU"),
        ("--trt --sm 90", 2, "can't build an engine for sm90"),
        ("--trt --sm rtx9999 --batch 0 --size x", 2, "rtx9999"),
        ("--trt --sm 89 --builder tensorrt", 4, "tensorrt"),
        ("--trt --sm 89 --refit", 4, "on a GPU"),
        ("--trt --sm 89 --size 60..130", 2, "must be multiples of 16 pixels"),
        ("--trt --sm 89 --timing-cache c", 2, "--timing-cache only applies to"),
        ("--trt --refit-from nothing.engine", 3, "nothing"),
        ("--trt --sm 89 --refit-from nothing.engine", 2, "--sm"),
        ("--sm 89 --batch 4", 2, "--batch requires --trt"),
    ],
)
def test_mistakes(sanac: Sanac, words: str, code: int, said: str) -> None:
    ran = sanac("export", "sanac:tiny", "--component", "transformer", "--out", "o", *words.split())
    assert (ran.code, said in ran.err) == (code, True), ran.err
    assert not Path("o").exists()
    assert not Path("o.partial").exists()


def test_fp8_is_refused_before_time_is_spent(sanac: Sanac, six: Path) -> None:
    assert sanac("quantize", six, "--scheme", "fp8-wo", "--out", "fp8").code == 0
    began = time.monotonic()
    ran = sanac("export", "fp8", *EXPORT, "--sm", "rtx3090")
    assert (ran.code, "fp8 matmuls, which tensorrt_rtx doesn't support on sm86" in ran.err) == (2, True), ran.err
    assert time.monotonic() - began < 10


def test_without_a_builder(sanac: Sanac, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    ran = sanac("export", "sanac:tiny", "--trt", "--sm", "89", "--out", "o")
    assert (ran.code, "pip install 'onnxruntime>=1.23' 'tensorrt-rtx" in ran.err) == (4, True), ran.err


def test_a_disk_that_is_full(sanac: Sanac, six: Path) -> None:
    """A limit on the size of files stands for it: exit 4, and nothing that looks like an engine."""
    shutil.copytree(six, "six")
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000));"
        "from sanac.cli.app import run; sys.exit(run(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "export", "six", *EXPORT, "--sm", "89"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "File too large" in done.stderr) == (4, True), done.stderr
    assert not list(Path("six").rglob("*.engine*"))
    assert sanac("export", "six", *EXPORT, "--sm", "89").code == 0, "and again, with room"


def test_killed_while_it_builds(sanac: Sanac, six: Path) -> None:
    """-9 for the command: its builder goes, too, and the next run, be it another one, clears what it left."""
    shutil.copytree(six, "six")
    command = [sys.executable, "-m", "sanac", "export", "six", *EXPORT, "--sm", "89"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    builder = _wait_for_builder(process)
    while not list(Path("six").rglob("*.unfinished")):
        assert Path(f"/proc/{builder}").exists(), "it ended before it wrote anything"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if not Path(f"/proc/{builder}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{builder}").exists()
    assert sanac("inspect", "six", "--scan").code == 0
    assert list(Path("six").rglob("*.unfinished"))
    ran = sanac("export", "six", *EXPORT, "--sm", "120", "--json")
    assert ran.code == 0, ran.err
    assert check_file(engine_of(ran)).capabilities == (120,)
    assert not [path.name for path in Path("six").rglob("*") if "sm89" in path.name], "nothing of the other is left"


def test_a_builder_that_is_killed(sanac: Sanac, six: Path) -> None:
    shutil.copytree(six, "six")
    command = [sys.executable, "-m", "sanac", "export", "six", *EXPORT, "--sm", "89", "--json"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE)
    os.kill(_wait_for_builder(process), signal.SIGKILL)
    said = json.loads(process.communicate()[0])
    assert (process.returncode, "memory" in said["error"]["why"]) == (4, True), said
    assert not list(Path("six").rglob("*.engine*"))


def test_a_builder_that_dies_before_it_is_asked(sanac: Sanac, six: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def dead(*words: Any, **how: Any) -> "subprocess.Popen[bytes]":
        process = start(*words, **how)
        process.kill()
        process.wait()
        return process

    shutil.copytree(six, "six")
    monkeypatch.setattr(engine_writer.subprocess, "Popen", dead)
    ran = sanac("export", "six", *EXPORT, "--sm", "89")
    assert (ran.code, "memory" in ran.err) == (4, True), ran.err
    assert not list(Path("six").rglob("*.engine*"))


def _wait_for_builder(process: "subprocess.Popen[bytes]") -> int:
    """The process that builds, once it is there."""
    for _ in range(1200):
        assert process.poll() is None, "it ended before it built anything"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            if b"sanac.export.engine_builder" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        time.sleep(0.05)
    raise AssertionError("no builder was seen")


def _shared(one: bytes, other: bytes) -> float:
    """The share of `one`, in pieces of 4 KiB, that `other` has somewhere, too."""
    pieces = [one[at : at + 4096] for at in range(0, len(one), 4096)]
    return sum(piece in other for piece in pieces) / len(pieces)
