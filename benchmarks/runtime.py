"""Backends side by side by `sanac bench`, depths side by side, and where the time of a wide graph goes.

python benchmarks/runtime.py [--part NAME] [--show]      (half an hour; docs/results/runtime.json)

backends: sanac:tiny, and eight blocks of width 1152 (the real 0.6B's) in its surroundings, each as torch eager,
torch.compile, onnxruntime in fp32, and int8 graphs of both. depth: 60, 40, 30 and 20 untrained blocks of width 96.
profile: onnxruntime's own, of a step of the wide model in fp32 and in int8. kernels: the same graphs side by side, int8
with products in floats, as sanac has it on processors without VNNI, and with onnxruntime's own of 8 bits.
"""

import collections
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from measure import machine

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.nn.onnx_files import GRAPH
from sanac.runtime.onnx_session import installed, saturates
from sanac.tiny.build import build, save, transformer
from sanac.verify.parity import USUAL, Case

RESULT = Path("docs/results/runtime.json")
WIDTH, WIDE, TOKENS = 1152, 8, "256"  # pixels: 16 x 16 latents, 256 tokens
DEPTHS = (60, 40, 30, 20)
LEVEL, FASTER, LINEAR = 1.0, 1.2, 0.15  # targets
STEPS = "4"


def run(*words: object) -> str:
    """sanac, which must succeed."""
    command = [sys.executable, "-m", "sanac", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"sanac {' '.join(map(str, words))} failed:\n{done.stderr}")
    return done.stdout


def untrained(folder: Path, blocks: int, width: int = 96) -> Path:
    """A whole pipeline with random weights."""
    pipeline = build(1)
    torch.manual_seed(0)
    pipeline.transformer = transformer(blocks, width=width).eval()
    save(pipeline, folder)
    return folder


def exported(source: object, folder: Path) -> Path:
    """With graphs in fp32."""
    out = folder / f"{Path(str(source)).name.replace(':', '-')}-graphs"
    run("export", source, "--out", out, "--precision", "fp32", "--no-verify", "--workspace", folder / "ws")
    return out


def rounded(source: object, folder: Path) -> Path:
    """The same in int8."""
    out = folder / f"{Path(str(source)).name.replace(':', '-')}-int8"
    few = ("--num-prompts", "8", "--timesteps", "4")
    run("quantize", source, "--scheme", "int8", "--out", out, *few, "--workspace", folder / "ws")
    run("export", out, "--in-place", "--precision", "fp32", "--no-verify", "--workspace", folder / "ws")
    return out


def bench(*words: object) -> dict[str, Any]:
    """What `sanac bench` found."""
    found: dict[str, Any] = json.loads(run("bench", *words, "--json"))
    return {name: found[name] for name in ("settings", "machine", "doubts", "subjects")}


def rounds_of(found: Mapping[str, Any]) -> dict[str, list[float]]:
    """A picture's seconds, round by round."""
    return {f"{Path(s['model']).name}, {s['backend']}": s["batches"]["1"]["rounds"] for s in found["subjects"]}


def backends(folder: Path) -> dict[str, Any]:
    """Both models with all that runs here."""
    wide = untrained(folder / "wide", WIDE, WIDTH)
    found = {}
    for name, source, size in (("sanac:tiny", "sanac:tiny", ()), ("wide", wide, ("--size", TOKENS))):
        plain, int8 = exported(source, folder), rounded(source, folder)
        how = ("--rounds", "9", "--steps", STEPS, *size)
        found[name] = bench(plain, "--backend", "torch,compile,onnx", *how)
        found[f"{name}, int8"] = bench(plain, int8, "--backend", "onnx", *how)
    return found


def depths(folder: Path) -> dict[str, Any]:
    """One model for each, with torch and as graphs."""
    models = [exported(untrained(folder / f"blocks-{depth}", depth), folder) for depth in DEPTHS]
    how = ("--rounds", "9", "--steps", STEPS, "--size", TOKENS)
    return {backend: bench(*models, "--backend", backend, *how) for backend in ("torch", "onnx")}


def profile(folder: Path) -> dict[str, Any]:
    """Milliseconds of a step by the kind of node."""
    wide = untrained(folder / "profiled", WIDE, WIDTH)
    return {"fp32": _profiled(exported(wide, folder), folder), "int8": _profiled(rounded(wide, folder), folder)}


def kernels(folder: Path, rounds: int = 9) -> dict[str, list[float]]:
    """Seconds of a step, round by round."""
    wide = untrained(folder / "kernels", WIDE, WIDTH)
    plain, int8 = exported(wide, folder), rounded(wide, folder)
    sessions = {
        "fp32": session_of(plain),
        "int8, products in floats": session_of(int8, in_floats=True),
        "int8, onnxruntime's own": session_of(int8, in_floats=False),
    }
    given = inputs_of(plain)
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(rounds + 1):
        for name, session in sessions.items():
            start = time.perf_counter()
            session.run(None, given)
            found[name] += [time.perf_counter() - start] if number else []  # the first one is a warm-up
    return found


def session_of(artifact: Path, *, in_floats: bool = False, profile_to: Path | None = None) -> Any:
    """Of a transformer's graph."""
    runtime = installed()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    if profile_to:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    if in_floats:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return runtime.InferenceSession(artifact / "transformer" / GRAPH, options, providers=["CPUExecutionProvider"])


def inputs_of(artifact: Path) -> dict[str, Any]:
    """Two branches of 256 tokens."""
    given = Case(USUAL, 2, 16, 16, 12).inputs(open_model(locate(str(artifact))).architecture)
    return {name: value.numpy() for name, value in given.items()}


def _profiled(artifact: Path, folder: Path, calls: int = 5) -> dict[str, float]:
    session = session_of(artifact, in_floats=saturates(), profile_to=folder / "profile")
    given = inputs_of(artifact)
    for _ in range(calls):
        session.run(None, given)
    events = json.loads(Path(session.end_profiling()).read_text())
    spent: dict[str, float] = collections.defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"] / 1000 / calls
    return dict(sorted(spent.items(), key=lambda pair: -pair[1]))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times faster, by the median round."""
    return sorted(t / o for t, o in zip(theirs, ours, strict=True))[len(ours) // 2]


def show(found: Mapping[str, Any]) -> None:
    """Tables and verdicts."""
    for name in ("sanac:tiny", "wide") if "backends" in found else ():
        times = rounds_of(found["backends"][name])
        torch_s, compiled, graph = times.values()
        best = min(ratio(graph, torch_s), ratio(graph, compiled))
        click.echo(f"{name}: onnxruntime fp32 is {ratio(graph, torch_s):.2f} x torch, {ratio(graph, compiled):.2f} x")
        click.echo(f"  compiled; at least level ({LEVEL}): {'met' if best >= LEVEL else 'NOT MET'}")
        plain, int8 = rounds_of(found["backends"][f"{name}, int8"]).values()
        verdict = "met" if ratio(int8, plain) >= FASTER else "NOT MET"
        click.echo(f"  int8 is {ratio(int8, plain):.2f} x fp32; {FASTER} on the wide one: {verdict}")
    for backend, about in found.get("depth", {}).items():
        times = [subject["batches"]["1"]["seconds"] for subject in about["subjects"]]
        for depth, seconds in zip(DEPTHS[1:], times[1:], strict=True):
            step, image = (seconds[part]["median"] / times[0][part]["median"] for part in ("step", "image"))
            off = step / (depth / DEPTHS[0]) - 1
            verdict = "met" if abs(off) <= LINEAR else "NOT MET"
            text = f"a step takes {step:.3f}, {off:+.1%} from linear: {verdict}; a picture {image:.3f}"
            click.echo(f"{backend}: {depth} of {DEPTHS[0]} blocks: {text}")
    for name, spent in found.get("profile", {}).items():
        whole = sum(spent.values())
        parts = ", ".join(f"{kind} {part / whole:.0%}" for kind, part in list(spent.items())[:8])
        click.echo(f"{name}: {whole:.1f} ms a step: {parts}")
    for name, seconds in found.get("kernels", {}).items():
        click.echo(f"{name}: {ratio(seconds, found['kernels']['fp32']):.2f} x fp32, kernels side by side")
    for part in ("backends", "depth"):
        for name, about in found.get(part, {}).items():
            for doubt in about["doubts"]:
                click.echo(f"doubt ({name}): {doubt}")


PARTS = {"backends": backends, "depth": depths, "profile": profile, "kernels": kernels}


@click.command()
@click.option("--part", type=click.Choice([*PARTS]), multiple=True, help="Only this.")
@click.option("--show", "only_show", is_flag=True, help="What was measured before.")
def main(part: tuple[str, ...], *, only_show: bool) -> None:
    """Measure, keep, show."""
    found = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in () if only_show else part or tuple(PARTS):
        with tempfile.TemporaryDirectory() as folder:
            found |= {name: PARTS[name](Path(folder)), "machine": machine()}
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


if __name__ == "__main__":
    main()
