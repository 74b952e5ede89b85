"""Engines of graphs: which builder makes them, for which GPUs and shapes; each built by a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sanac.core import jsonfile
from sanac.core.copying import Written, digest_file
from sanac.core.engines import (
    AHEAD,
    ENGINE,
    HERE,
    LOG,
    NEVER,
    PACKAGES,
    RECORD,
    Record,
    Span,
    bindings,
    check_file,
    read_record,
    refuse_impossible,
    sm_text,
)
from sanac.core.errors import BadInput, Lacking, Misuse
from sanac.core.manifest import read_manifest
from sanac.core.model import Model
from sanac.core.stage import Stage
from sanac.core.talk import Talk
from sanac.core.units import bytes_text, duration_text
from sanac.export.graph import GRAPH
from sanac.nn.device import capability, shrinkage
from sanac.nn.surroundings import latent_side

if TYPE_CHECKING:
    from sanac.export.job import Exported

_SCHEMA = 1  # raised when the same settings would give another engine
_LONGEST, _LONGEST_TEXT = 300, 1024  # tokens that pipelines give the transformer, and with instructions the encoder
_SHRINKAGE = 32  # of SANA's autoencoder
_ITEM = {"fp32": 4, "fp16": 2, "bf16": 2}
_COPIES, _BUILDER = 2.0, 700_000_000  # anonymous memory that TensorRT takes: times the weights, and besides
_RUNTIME = 16_000_000  # bytes of an engine besides its weights
_BEGIN, _RATE = 5.0, 80e6  # seconds, and bytes of weights a second, on two slow cores
_OUT_OF_MEMORY = -9


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user said of engines."""

    builder: str = "auto"
    capabilities: tuple[int, ...] = ()
    batch: tuple[int, int] = (1, 4)
    size: tuple[int, int] | None = (
        None  # of a picture's sides, in pixels; None: from half the model's own to its double
    )
    weight_streaming: bool = False
    refit: bool = False
    refit_from: Path | None = None
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Engine:
    """One engine: of which graph, by whom, for what."""

    of: "Exported"
    builder: str
    version: str
    capabilities: tuple[int, ...]
    sizes: Mapping[str, Span] = field(hash=False)
    weight_streaming: bool = False
    refit: bool = False
    refit_from: Path | None = None
    timing_cache: Path | None = None

    @property
    def stem(self) -> str:
        """Of its files: transformer/model.int8.rtx-1.7.1.116.sm89."""
        scheme = self.of.scheme or self.of.precision
        return f"{self.of.folder}/model.{scheme}.{self.builder}-{self.version}.{sm_text(self.capabilities)}"

    @property
    def graph(self) -> str:
        """The graph's file."""
        return f"{self.of.folder}/{GRAPH}"

    @property
    def files(self) -> tuple[str, ...]:
        """What is written for it."""
        return (self.stem + ENGINE, self.stem + RECORD, self.stem + LOG)

    @property
    def weights(self) -> int:
        """Bytes that its weights take, at most: those of few bits may be restored in it."""
        return self.of.parameters * _ITEM[self.of.precision]

    @property
    def memory(self) -> int:
        """That building it takes, about."""
        return int(_COPIES * self.weights) + _BUILDER

    @property
    def disk(self) -> int:
        """That it takes, about."""
        return self.weights + _RUNTIME

    @property
    def built_with(self) -> str:
        """For people."""
        return f"{PACKAGES[self.builder]} {self.version} for {sm_text(self.capabilities)}"

    def to_json(self) -> dict[str, Any]:
        """What its content hangs on, besides the graph."""
        return {
            "schema": _SCHEMA,
            "folder": self.of.folder,
            "builder": self.builder,
            "version": self.version,
            "capabilities": list(self.capabilities),
            "sizes": {name: asdict(span) for name, span in self.sizes.items()},
            "weight_streaming": self.weight_streaming,
            "refit": self.refit,
            "refitted": digest_file(self.refit_from) if self.refit_from else None,
        }

    def key(self, graph: str) -> str:
        """By which it is known that it stands already."""
        return jsonfile.key_of(["engine", self.to_json(), graph])

    def task(self, folder: Path, out: Path) -> dict[str, Any]:
        """For the process that builds it."""
        return {
            "builder": self.builder,
            "graph": str(folder / self.graph),
            "out": str(out),
            "capabilities": self.capabilities,
            "sizes": {name: (span.least, span.best, span.most) for name, span in self.sizes.items()},
            "weight_streaming": self.weight_streaming,
            "refit": self.refit,
            "refit_from": str(self.refit_from.absolute()) if self.refit_from else None,
            "timing_cache": str(self.timing_cache.absolute()) if self.timing_cache else None,
            "no_bf16": min(self.capabilities) == AHEAD[0],
        }


def engines_of(model: Model, graphs: "Sequence[Exported]", asked: Asked) -> list[Engine]:
    """An engine for each graph; everything that speaks against one is said before any is built."""
    record = check_file(asked.refit_from) if asked.refit_from else None
    builder, version, capabilities = _choose(asked)
    sizes = _sizes(model, asked)
    old = _refitted(asked.refit_from, record, builder, version)
    found = []
    for graph in graphs:
        refuse_impossible(graph.forms, builder, capabilities, f"the {graph.folder}'s graph")
        if old and graph.folder != old.parent.name:
            continue
        how = (asked.weight_streaming, asked.refit or bool(old), old, asked.timing_cache)
        found.append(Engine(graph, builder, version, capabilities, sizes[graph.folder], *how))
    if old and not found:
        raise Misuse(f"{old} is no engine of what is exported", hint="it lies in the folder of its component")
    return found


def _choose(asked: Asked) -> tuple[str, str, tuple[int, ...]]:
    """Builder, its version, and the GPUs; never another builder than the one asked for."""
    here, wanted, builder = capability(), asked.capabilities, asked.builder
    if builder == "auto":
        builder = "tensorrt" if here and wanted in {(), (here,)} and _has("tensorrt") else "rtx"
    if builder == "rtx" and not (wanted or here):
        hint = "--sm rtx4090, --sm 89, several: --sm 89,120"
        raise Misuse("engines for which GPU?", why="none is here, so it has to be said", hint=hint)
    version = str(bindings(builder).__version__)
    if (asked.refit or asked.refit_from) and here is None:
        why = "TensorRT compiles those on a GPU, and none is here"
        raise Lacking(
            "no engine that takes other weights can be made", why=why, hint="leave --refit out, and build anew"
        )
    if builder == "rtx":
        chosen = wanted or (here or 0,)
        if beyond := [one for one in chosen if one not in AHEAD]:
            why = f"{PACKAGES[builder]} builds for {', '.join(map(str, AHEAD))}"
            raise Misuse(f"no engine for sm{beyond[0]}", why=why, hint="--builder tensorrt, on a machine with that GPU")
        if asked.timing_cache:
            why = "tensorrt-rtx times nothing ahead of time"
            raise Misuse("--timing-cache is for --builder tensorrt", why=why, hint="leave it out")
        return builder, version, chosen
    if here is None:
        hint = "--builder rtx --sm 89 builds ahead of time"
        raise Lacking("tensorrt builds on the GPU that will run the engine, and none is here", hint=hint)
    if wanted not in {(), (here,)}:
        why = f"tensorrt builds for the GPU that is here, sm{here}"
        raise Misuse(f"no engine for {sm_text(wanted)}", why=why, hint="--builder rtx, or leave --sm out")
    return builder, version, (here,)


def _has(builder: str) -> bool:
    try:
        bindings(builder)
    except Lacking:
        return False
    return True


def _refitted(old: Path | None, record: Record | None, builder: str, version: str) -> Path | None:
    """The engine that gets new weights, after all that its record can tell."""
    again = "leave --refit-from out to build one"
    if record and (record.builder, record.version) != (builder, version):
        here = f"{PACKAGES[builder]} {version}"
        raise Lacking(f"{old} was built with {record.built_with}", why=f"here is {here}", hint=again)
    if record and not record.refit:
        raise Misuse(f"{old} can't be refitted", why="it was built without --refit", hint=again)
    return old


def _sizes(model: Model, asked: Asked) -> dict[str, dict[str, Span]]:
    """What the symbols of each component's graph may be."""
    architecture = model.architecture
    patch, (step, own) = architecture.patch_size, _native(model)
    low, high = asked.size or (max(step * patch, own // 2), 2 * own)
    if low % (step * patch) or high % (step * patch):
        raise Misuse(f"pictures have sides in steps of {step * patch} pixels", hint=f"--size {own // 2}..{2 * own}")
    sides = Span(low // step, min(max(own, low), high) // step, high // step)
    batch = Span(asked.batch[0], asked.batch[0], asked.batch[1])
    branches = 1 if architecture.guidance else 2  # with guidance, a pipeline asks for each picture twice at once
    both = Span(batch.least, min(batch.least * branches, batch.most * branches), batch.most * branches)
    parts = Span(sides.least // patch, sides.best // patch, sides.most // patch)
    text = Span(1, _LONGEST, _LONGEST)
    picture = {"batch": batch, "rows": sides, "columns": sides}
    return {
        "transformer": {"batch": both, "rows": parts, "columns": parts, "sequence_length": text},
        "text_encoder": {"batch": batch, "sequence_length": Span(1, _LONGEST, _LONGEST_TEXT)},
        "vae_decoder": picture,
        "vae_encoder": picture,
    }


def _native(model: Model) -> tuple[int, int]:
    """Pixels that become one latent, and the side of the pictures that the model was made for."""
    vae = next((part.config for part in model.others if part.name == "vae"), {})
    layers = vae.get("encoder_layers_per_block")
    step = shrinkage(layers) if isinstance(layers, list) and layers else _SHRINKAGE
    return step, step * latent_side(model)


def place_engine(engine: Engine, stage: Stage, talk: Talk) -> None:
    """Build an engine and write it, its record, and a log that a person can read."""
    if all(name in stage.files for name in engine.files):
        return
    for name in engine.files:  # the record tells of this very engine
        stage.files.pop(name, None)
    seconds = duration_text(_BEGIN + engine.weights / _RATE)
    talk.note(f"{engine.of.folder}: building an engine with {engine.built_with}, about {seconds}")
    told = _Told([f"{engine.built_with}, of {engine.graph}"])

    def write(path: Path) -> Written:
        told.built = _run(engine, engine.task(stage.partial, path), told, talk)
        return Written(path.stat().st_size, digest_file(path))

    written = stage.place(engine.stem + ENGINE, write)
    record = _record(engine, told.built, written.size, stage)
    stage.place_bytes(engine.stem + RECORD, jsonfile.pretty(record.to_json()))
    stage.place_bytes(engine.stem + LOG, ("\n".join(told.lines) + "\n").encode())
    check_file(stage.partial / f"{engine.stem}{ENGINE}")
    talk.note(f"{engine.stem}{ENGINE}: {bytes_text(written.size)}, {record.executed}")


@dataclass
class _Told:
    """What the process said so far."""

    lines: list[str]
    errors: list[str] = field(default_factory=list)
    built: dict[str, Any] = field(default_factory=dict)


def _record(engine: Engine, built: Mapping[str, Any], size: int, stage: Stage) -> Record:
    old = read_record(engine.refit_from.with_suffix(RECORD)) if engine.refit_from else None
    if old and old.structure != built["structure"]:
        raise Misuse(f"{engine.refit_from} is an engine of another graph", hint="leave --refit-from out to build one")
    return Record(
        engine=Path(engine.stem).name + ENGINE,
        size=size,
        builder=engine.builder,
        version=str(built["version"]),
        capabilities=engine.capabilities,
        forms=tuple(sorted(engine.of.forms)),
        structure=built["structure"],
        weights={name: _digest(f"{engine.of.folder}/{name}", stage) for name in built["files"]},
        inputs=old.inputs if old else built["inputs"],
        outputs=old.outputs if old else built["outputs"],
        weight_streaming=engine.weight_streaming,
        refit=engine.refit,
        executed=NEVER if engine.builder == "rtx" else HERE,
    )


def _digest(name: str, stage: Stage) -> str:
    """Of a file of the artifact: one that is being written, or that was sealed before."""
    sealed = read_manifest(stage.partial)
    known = stage.files.get(name) or (sealed.files.get(name) if sealed else None)
    return known.blake3 if known else digest_file(stage.partial / name)


def _run(engine: Engine, task: Mapping[str, Any], told: _Told, talk: Talk) -> dict[str, Any]:
    """Have a process build it; what it says is shown and kept."""
    command = [sys.executable, "-P", "-m", "sanac.export.building"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    talk.begin("building", engine.weights)
    try:
        assert process.stdin
        process.stdin.write(json.dumps(task).encode())
        process.stdin.close()
        last = _listen(process, told, engine.weights, talk)
        process.wait()
    finally:
        process.kill()
        process.wait()
        talk.end()
    if "built" in last:
        told.lines.append(f"peak resident memory: {bytes_text(last['peak'])}")
        return dict(last["built"])
    raise _failure(engine, last, process.returncode, told)


def _listen(process: "subprocess.Popen[bytes]", told: _Told, total: int, talk: Talk) -> dict[str, Any]:
    """The last thing that it said; shares of the work are told as bytes of weights."""
    last: dict[str, Any] = {}
    done = 0
    for last in _lines(process):
        if "share" in last:
            now = max(done, int(total * last["share"]))
            talk.advance(now - done)
            done = now
        elif "phase" in last:
            told.lines.append(f"{last['seconds']:>8.2f} s  {last['phase']}")
        elif "log" in last:
            told.lines.append(f"{last['log']}: {last['text']}")
            talk.detail(told.lines[-1])
            told.errors += [last["text"]] if "error" in last["log"] else []
    return last


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """JSON objects as they come; whatever else a library prints is taken for its log."""
    assert process.stdout
    for line in process.stdout:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        yield found if isinstance(found, dict) else {"log": "output", "text": line.decode(errors="replace").rstrip()}


def _failure(engine: Engine, last: Mapping[str, Any], code: int, told: _Told) -> Exception:
    """What to raise where nothing was built."""
    what = f"no engine of {engine.graph} was built"
    if "disk" in last:
        return OSError(last["disk"], last["text"], engine.stem + ENGINE)
    if code == _OUT_OF_MEMORY:
        why = f"its process was killed, as it is where memory runs out: it takes about {bytes_text(engine.memory)}"
        return Lacking(what, why=why, hint="run the same command again with more memory free")
    if "failed" in last:
        if "out of memory" in last["failed"].lower():
            return Lacking(what, why=last["failed"][:500], hint="run it again with more memory free")
        return BadInput(
            what, why=last["failed"][:500], problems=told.errors[:10], hint="-v shows the builder's own log"
        )
    why = told.lines[-1] if told.lines else f"its process ended with {code}"
    return Lacking(what, why=why[:500], problems=told.errors[:10], hint="sanac doctor")
