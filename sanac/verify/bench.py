"""Benchmarks speed and memory of models and backends side by side, in processes that take turns.

Each subject has its own process, so that its memory can be measured; only one computes at a time. A round runs every
subject once; the order rotates between rounds. Ratios are taken per round, so that slowdowns of the machine affect
both sides of a ratio.
"""

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sanac.core import errors
from sanac.core.errors import MissingResource, UsageError
from sanac.core.progress import Reporter
from sanac.core.threads import omp_settings
from sanac.core.units import duration_text
from sanac.verify.timing_noise import Contention, noise_warnings, watch_contention

PARTS = ("transformer", "text_encoder", "decoder", "image")
STEP = "transformer"  # one call of it is one sampler step
_SAMPLED = 0.02  # seconds between two samples of a process's memory


@dataclass(frozen=True, slots=True)
class BenchRun:
    """Settings of a benchmark."""

    batches: tuple[int, ...] = (1,)
    rounds: int = 5
    steps: int | None = None  # None: the model's default
    guidance: float | None = None  # None: the model's default
    size: tuple[int, int] | None = None  # width, height; None: the native resolution
    device: str | None = None
    threads: int | None = None
    tile: int | None = None


@dataclass(frozen=True, slots=True)
class Subject:
    """One model on one backend."""

    name: str
    model: str  # path or name that opens it
    backend: str

    def __str__(self) -> str:
        """Name and backend, e.g. 'sanac:tiny, onnx'."""
        return f"{self.name}, {self.backend}"


@dataclass(frozen=True, slots=True)
class Times:
    """Median, 90th percentile and number of measured times, in seconds."""

    median: float
    p90: float
    count: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Summarise measured seconds."""
        ordered = sorted(seconds)
        return cls(statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))], len(ordered))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Speedup over the first subject: median and range over the rounds."""

    median: float
    least: float
    most: float


@dataclass
class Measured:
    """Measurements of one subject: seconds by batch, round and part."""

    subject: Subject
    device: str = "cpu"
    load: float = 0.0
    warm: dict[int, float] = field(default_factory=dict)  # batch -> seconds of the first call
    rounds: dict[int, list[dict[str, list[float]]]] = field(default_factory=dict)
    anonymous: int = 0  # peak bytes of anonymous memory, which can't be evicted
    resident: int = 0  # peak bytes including mapped files, which can be evicted
    on_device: int = 0

    def times(self, batch: int, part: str) -> Times | None:
        """Times of a part over all rounds; None if the subject doesn't have the part."""
        seconds = [one for found in self.rounds[batch] for one in found.get(part, ())]
        return Times.of(seconds) if seconds else None

    def per_round(self, batch: int) -> list[float]:
        """Median seconds of each round: of the whole call, or of a sampler step for a transformer alone."""
        return [statistics.median(found.get("image") or found[STEP]) for found in self.rounds[batch]]

    def ratio(self, other: "Measured", batch: int) -> Ratio:
        """Speedup of this subject over another."""
        pairs = zip(other.per_round(batch), self.per_round(batch), strict=True)
        ratios = [theirs / ours for theirs, ours in pairs]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True)
class BenchReport:
    """Result of a benchmark."""

    measured: tuple[Measured, ...]
    settings: BenchRun
    warnings: tuple[str, ...]  # warnings about noisy measurements

    def to_json(self) -> dict[str, Any]:
        """The report as JSON, in seconds and bytes."""
        return {
            "settings": asdict(self.settings),
            "machine": machine(),
            "doubts": list(self.warnings),
            "subjects": [self._subject(one) for one in self.measured],
        }

    def _subject(self, one: Measured) -> dict[str, Any]:
        batches = {}
        for batch in self.settings.batches:
            times = {part: found for part in PARTS if (found := one.times(batch, part))}
            seconds = {("step" if part == STEP else part): asdict(found) for part, found in times.items()}
            about: dict[str, Any] = {"first call": one.warm[batch], "seconds": seconds}
            if "image" in times:
                about["images per second"] = batch / times["image"].median
            about["faster than the first"] = asdict(one.ratio(self.measured[0], batch))
            about["rounds"] = one.per_round(batch)
            batches[str(batch)] = about
        memory = {"anonymous": one.anonymous, "resident": one.resident, "device": one.on_device}
        subject = {"model": one.subject.name, "backend": one.subject.backend, "device": one.device}
        return subject | {"load": one.load, "memory": memory, "batches": batches}

    def metrics(self, name: str) -> dict[str, float]:
        """Flat metrics of a model by name: milliseconds, bytes, ratios."""
        found: dict[str, float] = {}
        for one in self.measured:
            if one.subject.name != name:
                continue
            for batch in self.settings.batches:
                key = f"{one.subject.backend}/batch{batch}"
                for part, label in ((STEP, "step_ms"), ("image", "image_ms")):
                    if times := one.times(batch, part):
                        found[f"{key}/{label}"] = 1000 * times.median
                found[f"{key}/speedup"] = one.ratio(self.measured[0], batch).median
            found[f"{one.subject.backend}/peak_bytes"] = one.anonymous
        return found


def machine() -> dict[str, Any]:
    """Description of this machine: CPU, cores, GPU and package versions."""
    import torch

    from sanac.runtime.doctor import processor, version

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: version(name) for name in ("sanac", "torch", "onnxruntime", "onnxruntime-gpu", "tensorrt")}
    known = {name: text for name, text in versions.items() if text}
    return {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "gpu": gpu, "versions": known}


def bench(subjects: Sequence[Subject], settings: BenchRun, reporter: Reporter) -> BenchReport:
    """Load and warm up all subjects, then measure them in rounds."""
    if len(set(subjects)) < len(subjects):
        raise UsageError("a model is listed twice with the same backend", hint="list each once")
    found = [Measured(subject) for subject in subjects]
    contention = Contention()
    with ExitStack() as stack:
        workers = [stack.enter_context(_worker(one, settings)) for one in found]
        for worker in workers:
            reporter.note(f"{worker.measured.subject}: loading")
            worker.load()
            for batch in settings.batches:
                seconds = worker.run(batch)
                worker.measured.warm[batch] = sum(seconds.get("image") or seconds[STEP])
        again = [sum(worker.run(batch).get("image", [])) for worker in workers for batch in settings.batches]
        if any(again):
            reporter.note(f"{settings.rounds} rounds take about {duration_text(settings.rounds * sum(again))}")
        reporter.begin("measuring", settings.rounds * len(workers), "turns")
        try:
            for number in range(settings.rounds):
                with watch_contention(contention, [worker.process.pid for worker in workers]):
                    for worker in _turned(workers, number):
                        for batch in settings.batches:
                            worker.measured.rounds.setdefault(batch, []).append(worker.run(batch))
                        reporter.advance(1)
        finally:
            reporter.end()
    rounds = {f"{one.subject}, batch {batch}": one.per_round(batch) for one in found for batch in settings.batches}
    return BenchReport(tuple(found), settings, tuple(noise_warnings(contention, rounds)))


def _turned(workers: Sequence["_Worker"], number: int) -> Iterator["_Worker"]:
    """Rotate the order of the workers by the round number."""
    for place in range(len(workers)):
        yield workers[(place + number) % len(workers)]


class _Worker:
    """The child process of one subject."""

    def __init__(self, measured: Measured, process: "subprocess.Popen[str]") -> None:
        self.measured, self.process = measured, process

    def load(self) -> None:
        """Wait until the process has loaded the model."""
        answer = self._answer()
        self.measured.load, self.measured.device = answer["seconds"], answer["device"]

    def run(self, batch: int) -> dict[str, list[float]]:
        """Run one call; returns seconds by part."""
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"batch": batch}) + "\n")
            self.process.stdin.flush()
        seconds: dict[str, list[float]] = self._answer()["seconds"]
        return seconds

    def _answer(self) -> dict[str, Any]:
        """Read the next answer while sampling the process's memory; raises errors of the process here."""
        assert self.process.stdout
        over = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watcher.start()
        try:
            line = self.process.stdout.readline()
        finally:
            over.set()
            watcher.join()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer.pop("error"))
            message = f"{self.measured.subject}: {answer.pop('message')}"
            raise kind(message, **answer)
        self.measured.on_device = max(self.measured.on_device, answer["on device"])
        return answer

    def _ended(self) -> MissingResource:
        code = self.process.wait()
        killed = "its process was killed, probably because memory ran out"
        why = killed if code == -9 else f"its process exited with code {code}"
        hint = "benchmark fewer models at a time"
        return MissingResource(f"{self.measured.subject} could not be measured", why=why, hint=hint)

    def _watch(self, over: threading.Event) -> None:
        status = Path(f"/proc/{self.process.pid}/status")
        while True:
            with suppress(OSError):
                sizes = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                anonymous, resident = (_kilobytes(sizes.get(name, "0")) for name in ("RssAnon", "VmHWM"))
                self.measured.anonymous = max(self.measured.anonymous, anonymous)
                self.measured.resident = max(self.measured.resident, resident)
            if over.wait(_SAMPLED):
                return


def _kilobytes(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * 1024


@contextmanager
def _worker(measured: Measured, settings: BenchRun) -> Iterator[_Worker]:
    """Start the child process of a subject; it ends with the context."""
    subject = measured.subject
    command = [sys.executable, "-P", "-m", "sanac.verify.bench_worker"]
    about: Mapping[str, Any] = {"parent": os.getpid(), "model": subject.model, "backend": subject.backend}
    names = ("device", "steps", "guidance", "size", "threads", "tile")
    task = {**about, **{name: getattr(settings, name) for name in names}}
    threads = {"OMP_NUM_THREADS": str(settings.threads)} if settings.threads else {}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | omp_settings(os.environ | threads) | threads,
    ) as process:
        assert process.stdin
        try:
            with suppress(BrokenPipeError):  # it ended at once: the missing answer is reported later
                process.stdin.write(json.dumps(task) + "\n")
                process.stdin.flush()
            yield _Worker(measured, process)
        finally:
            process.kill()
            with suppress(BrokenPipeError):  # unsent input of a dead process
                process.stdin.close()
