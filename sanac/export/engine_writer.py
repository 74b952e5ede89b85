"""Writes engines: runs the build process of each, checks the result, and writes its record and build log."""

import contextlib
import errno
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.engine_record import ENGINE, HERE, LOG, NEVER, RECORD, Record, check_file, read_record
from sanac.core.artifact.manifest import changed_after_sealing, read_manifest
from sanac.core.artifact.staging import StagingArea
from sanac.core.errors import InvalidInput, MissingResource
from sanac.core.file_copy import FileRecord, digest_file
from sanac.core.progress import Reporter
from sanac.core.units import bytes_text, duration_text
from sanac.export.engine_plan import EngineBuild
from sanac.nn.onnx_files import check_references

_BEGIN, _RATE = 5.0, 80e6  # fixed seconds, and bytes of weights per second on two slow cores
_OUT_OF_MEMORY = -9


def place_engine(engine: EngineBuild, staging: StagingArea, reporter: Reporter) -> None:
    """Build an engine into the artifact, with its record and a readable build log."""
    if all(name in staging.files for name in engine.files):
        return
    for name in engine.files:  # the record must belong to this engine
        staging.files.pop(name, None)
    _check_graph(engine, staging)
    seconds = duration_text(_BEGIN + engine.weights / _RATE)
    reporter.note(f"{engine.component.folder}: building an engine with {engine.built_with}, about {seconds}")
    build_log = _BuildLog([f"{engine.built_with}, of {engine.graph_file}"])

    def write(path: Path) -> FileRecord:
        build_log.built = _run(engine, engine.task(staging.partial, path), build_log, reporter)
        return FileRecord(path.stat().st_size, digest_file(path))

    written = staging.place(engine.stem + ENGINE, write)
    record = _record(engine, build_log.built, written.size, staging)
    staging.place_bytes(engine.stem + RECORD, json_files.pretty(record.to_json()))
    staging.place_bytes(engine.stem + LOG, ("\n".join(build_log.lines) + "\n").encode())
    check_file(staging.existing(engine.stem + ENGINE))
    reporter.note(f"{engine.stem}{ENGINE}: {bytes_text(written.size)}, {record.executed}")


@dataclass
class _BuildLog:
    """Output of the build process so far."""

    lines: list[str]
    errors: list[str] = field(default_factory=list)
    built: dict[str, Any] = field(default_factory=dict)


def _record(engine: EngineBuild, built: Mapping[str, Any], size: int, staging: StagingArea) -> Record:
    old = read_record(engine.refit_from.with_suffix(RECORD)) if engine.refit_from else None
    return Record(
        engine=Path(engine.stem).name + ENGINE,
        size=size,
        builder=engine.builder,
        version=str(built["version"]),
        capabilities=engine.capabilities,
        forms=tuple(sorted(engine.component.forms)),
        structure=built["structure"],
        weights={name: _known(f"{engine.component.folder}/{name}", staging) for name in built["files"]},
        inputs=old.inputs if old else built["inputs"],
        outputs=old.outputs if old else built["outputs"],
        weight_streaming=engine.weight_streaming,
        refit=engine.refit,
        executed=NEVER if engine.builder == "rtx" else HERE,
    )


def _check_graph(engine: EngineBuild, staging: StagingArea) -> None:
    """Check the graph's references and, in a finished artifact, that its files match their sealed digests."""
    graph = staging.existing(engine.graph_file)
    files = (graph, *check_references(graph))
    if staging.partial != staging.out:
        return
    for path in files:
        if digest_file(path) != _known(path.relative_to(staging.partial).as_posix(), staging):
            raise changed_after_sealing(path, [f"the digest of {path.name} differs from the sealed one"])


def _known(name: str, staging: StagingArea) -> str:
    """Digest of an artifact file that was just written or sealed before; '' for other files."""
    sealed = read_manifest(staging.partial)
    known = staging.files.get(name) or (sealed.files.get(name) if sealed else None)
    return known.blake3 if known else ""


def _run(engine: EngineBuild, task: Mapping[str, Any], build_log: _BuildLog, reporter: Reporter) -> dict[str, Any]:
    """Run the build process; shows and records its output, and returns what it built."""
    command = [sys.executable, "-P", "-m", "sanac.export.engine_builder"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    reporter.begin("building", engine.weights)
    try:
        assert process.stdin
        with contextlib.suppress(BrokenPipeError), process.stdin:  # it died before reading: its output says why
            process.stdin.write(json.dumps(task).encode())
        outcome = _listen(process, build_log, engine.weights, reporter)
        process.wait()
    finally:
        process.kill()
        process.wait()
        reporter.end()
    if "built" in outcome:
        build_log.lines.append(f"peak resident memory: {bytes_text(outcome['peak'])}")
        return dict(outcome["built"])
    raise _failure(engine, outcome, process.returncode, build_log)


def _listen(process: "subprocess.Popen[bytes]", build_log: _BuildLog, total: int, reporter: Reporter) -> dict[str, Any]:
    """The last message of the build process, its result; progress is reported as bytes of weights."""
    outcome: dict[str, Any] = {}
    done = 0
    for line in _lines(process):
        if "share" in line:
            now = max(done, int(total * line["share"]))
            reporter.advance(now - done)
            done = now
        elif "phase" in line:
            build_log.lines.append(f"{line['seconds']:>8.2f} s  {line['phase']}")
        elif "log" in line:
            build_log.lines.append(f"{line['log']}: {line['text']}")
            reporter.detail(build_log.lines[-1])
            build_log.errors += [line["text"]] if "error" in line["log"] else []
        else:
            outcome = line
    return outcome


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """Yield the JSON lines of the build process; any other output becomes a log line."""
    assert process.stdout
    for line in process.stdout:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        yield found if isinstance(found, dict) else {"log": "output", "text": line.decode(errors="replace").rstrip()}


def _failure(engine: EngineBuild, outcome: Mapping[str, Any], code: int, build_log: _BuildLog) -> Exception:
    """The exception for a failed build."""
    what, problems = f"building the engine of {engine.graph_file} failed", build_log.errors[:10]
    if "disk" in outcome:
        return OSError(outcome["disk"] or errno.EIO, outcome["text"], engine.stem + ENGINE)
    if code == _OUT_OF_MEMORY:
        why = f"the build process was killed, probably out of memory: it needs about {bytes_text(engine.memory)}"
        return MissingResource(what, why=why, hint="run the same command again with more memory free")
    if "failed" not in outcome:
        why = build_log.lines[-1] if build_log.lines else f"the build process exited with code {code}"
        return MissingResource(what, why=why[:500], problems=problems, hint="sanac doctor")
    why = str(outcome["failed"])[:500]
    if outcome.get("graph"):
        return InvalidInput(what, why=why, problems=problems, hint="run with -v to see the builder's log")
    short = "outofmemory" in why.lower().replace(" ", "")
    hint = "run it again with more memory free" if short else "run with -v to see the builder's log"
    return MissingResource(what, why=why, problems=problems, hint=hint)
