"""Runs the stages of a recipe one by one, each in a child process; finished stages are cached in the workspace."""

import fcntl
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.manifest import check_sealed, read_manifest
from sanac.core.artifact.measurements import measurements_in
from sanac.core.artifact.staging import MEASUREMENTS
from sanac.core.artifact.workspace import RUN_LOCK
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import MissingResource, SanacError, Terminated
from sanac.core.file_copy import digest_file
from sanac.core.progress import Reporter
from sanac.nn.onnx_files import GRAPH
from sanac.run.stage_graph import RecipeStage
from sanac.run.stage_process import run_stage
from sanac.verbs import VERBS
from sanac.verify.evaluate_settings import measurement_of
from sanac.verify.settings import VerifySettings

DENIED, STOPPED, INTERRUPTED = 5, 75, 130
_KEPT = "run"  # workspace folder with a record per finished stage


class StageFailed(SanacError):
    """A stage failed; its exit code becomes the recipe's."""

    def __init__(self, code: int, message: str, **about: Any) -> None:
        super().__init__(message, **about)
        self.exit_code = code  # type: ignore[misc]


@dataclass(frozen=True)
class StageResult:
    """Result of a stage."""

    stage: RecipeStage
    status: str  # ok, cached, failed (its checks failed)
    out: Path
    data: Mapping[str, Any]
    seconds: float = 0.0


@dataclass
class RecipeRunner:
    """Runs stages in a workspace, starting from a model, and keeps their results."""

    model: str
    workspace: Path
    reporter: Reporter
    flags: Sequence[str] = ()  # passed to every command: -q, -v
    total: int = 0  # stages in all, for messages; 0: not known, as in the search for a target
    done: dict[str, StageResult] = field(default_factory=dict)

    def run(self, stage: RecipeStage, *, detached: bool = False) -> StageResult:
        """Run a stage unless it is cached, on request without writing its measurements into the artifact."""
        if stage.key not in self.done:
            self.done[stage.key] = self._known(stage) or self._do(stage, detached=detached)
        return self.done[stage.key]

    def known(self, stage: RecipeStage) -> bool:
        """Whether the stage is cached and its outputs still exist."""
        return stage.key in self.done or self._known(stage) is not None

    def place(self, stage: RecipeStage | None) -> str:
        """Path of the model that a stage wrote; the source model for None."""
        return str(stage.folder(self.workspace)) if stage else self.model

    def _known(self, stage: RecipeStage) -> StageResult | None:
        path = self._record(stage)
        try:
            if not path.is_file():
                return None
            value = json_files.read_object(path)
            file, out = Path(value["file"]), Path(value["out"])
            ours = self._is_place(stage, out) and file.is_relative_to(out)
            there = ours and value["key"] == stage.key and file.is_file() and digest_file(file) == value["digest"]
            if there and self._whole(stage, out):
                self.reporter.note(f"{stage.verb}: cached in {out}")
                status = "cached" if value["status"] == "ok" else value["status"]
                return StageResult(stage, status, out, value["data"])
        except (SanacError, KeyError, TypeError):  # a broken record is a cache miss
            pass
        return None

    def _is_place(self, stage: RecipeStage, out: Path) -> bool:
        """Whether a record's folder is one that this stage writes to: its own, or its model's."""
        return str(out) in {str(stage.folder(self.workspace)), self.place(stage.source)}

    def _whole(self, stage: RecipeStage, out: Path) -> bool:
        """Whether a stage's artifact is complete, or a benchmark's results exist for all of its models."""
        if stage.writes_artifact:
            manifest = read_manifest(out)
            return manifest is not None and not check_sealed(out, manifest)
        if stage.verb == "compare":
            made = json_files.read_object(out / VERBS["compare"].result)["files"]
            return all((ConfinedPath(out) / name).is_file() for name in made)
        if stage.verb != "bench":
            return True
        models = (one.folder(self.workspace) for one in (stage.source, *stage.others) if one)
        return all((measurements_in(place) / "bench.json").is_file() for place in models)

    def _record(self, stage: RecipeStage) -> ConfinedPath:
        return ConfinedPath(self.workspace) / _KEPT / f"{stage.key}.json"

    def _do(self, stage: RecipeStage, *, detached: bool) -> StageResult:
        command, out, file = self._command(stage, detached=detached)
        stage_number = f"stage {len(self.done) + 1} of {self.total}: " if self.total else ""
        self.reporter.note(f"{stage_number}sanac {' '.join(command)}")
        start = time.monotonic()
        code, data = _process([*command, "--json", *self.flags])
        seconds = time.monotonic() - start
        if code not in {0, DENIED}:
            raise _failure(stage, code, data)
        status = "failed" if code == DENIED else "ok"
        record: dict[str, Any] = {
            "key": stage.key,
            "verb": stage.verb,
            "status": status,
            "out": str(out),
            "file": str(file),
        }
        record |= {"digest": digest_file(file), "data": data}
        path = self._record(stage)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json_files.pretty(record))
        return StageResult(stage, status, out, data, seconds)

    def _command(self, stage: RecipeStage, *, detached: bool) -> tuple[list[str], Path, Path]:
        """(command line, output folder, file that marks the stage as finished)."""
        verb, settings = VERBS[stage.verb], stage.typed_settings
        model, out, options = self.place(stage.source), stage.folder(self.workspace), list(stage.options)
        if stage.verb == "prune" and stage.others:
            options += ["--scores", f"{self.place(stage.others[0])}/{VERBS['analyze'].result}"]
        if verb.result:
            models = [model, *(map(self.place, stage.others) if verb.models == "several" else ())]
            where = ["--out", str(out)]
            where += ["--workspace", str(self.workspace)] if hasattr(settings, "workspace") else []
            again = stage.verb == "compare" or (verb.writes_artifact and out.exists() and not self._whole(stage, out))
            where += ["--force"] if again else []
            return [stage.verb, *models, *options, *where], out, out / verb.result
        if isinstance(settings, VerifySettings) or "--against" in options:
            options = self._against(model, options)
        name = f"{measurement_of(settings, graphs=(Path(model) / 'transformer' / GRAPH).is_file())}.json"
        if stage.verb == "evaluate" and (stage.source is None or detached):
            return [stage.verb, model, *options, "--out", str(out)], out, out / MEASUREMENTS / name
        return [stage.verb, model, *options], Path(model), Path(model) / MEASUREMENTS / name

    def _against(self, model: str, options: list[str]) -> list[str]:
        """The options with the reference that `self` and `source` stand for; `self` where none is named."""
        against, rest = "self", list(options)
        if "--against" in rest:
            at = rest.index("--against")
            against = rest[at + 1]
            del rest[at : at + 2]
        return ["--against", {"self": model, "source": self.model}.get(against, against), *rest]


def _process(words: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Run a command in a process of its own; returns its exit code and its JSON."""
    code, printed = run_stage(words)
    if code == STOPPED:
        raise Terminated
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    try:
        value = json.loads(printed)
    except ValueError:
        value = {}
    return code, value if isinstance(value, dict) else {}


def _failure(stage: RecipeStage, code: int, data: Mapping[str, Any]) -> SanacError:
    """The error of a failed stage, with its exit code."""
    about = data.get("error") or {}
    if not about:
        killed = "its process was killed, probably because memory ran out"
        why = killed if code == -9 else f"its process exited with code {code}"
        return MissingResource(f"{stage.verb} did not finish", why=why, hint="run the same command again to continue")
    message = f"{stage.verb}: {about.get('message', '')}"
    rest = {name: about.get(name, "") for name in ("why", "hint")}
    return StageFailed(code, message, **rest, problems=tuple(about.get("problems", ())))


@contextmanager
def workspace_lock(workspace: Path) -> Iterator[None]:
    """Lock a workspace for the context, so that only one run uses it at a time."""
    inside = ConfinedPath(workspace)
    inside.mkdir(parents=True, exist_ok=True)
    with (inside / RUN_LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MissingResource(
                f"another run is using {workspace}",
                why="two runs would write the same files",
                hint="wait until it ends, or use --workspace OTHER",
            ) from error
        yield
