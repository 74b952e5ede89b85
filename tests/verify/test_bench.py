"""How fast: figures that add up, doubts that are told, processes that end with what started them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sanac.core.errors import MissingResource, UsageError
from sanac.core.progress import NULL_REPORTER
from sanac.verify import bench as benching
from sanac.verify.bench import BenchReport, BenchRun, Measured, Subject, Times
from sanac.verify.timing_noise import Contention, noise_warnings, watch_contention
from tests.conftest import Sanac, sanac_must

QUICK = ("--rounds", "2", "--steps", "2", "--threads", "1")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks of sanac:tiny, with the transformer's graph in fp32."""
    out = tmp_path_factory.mktemp("pruned") / "three"
    sanac_must("prune", "sanac:tiny", "--keep", "0-2", "--out", out)
    sanac_must("export", out, "--in-place", "--component", "transformer", "--precision", "fp32", "--no-verify")
    return out


def test_a_table_and_a_measurement(sanac: Sanac, pruned: Path, tmp_path: Path) -> None:
    ran = sanac("bench", "sanac:tiny", pruned, *QUICK, "--batch", "1,2", "--out", "kept", "--json")
    assert ran.code == 0, ran.err
    found = ran.json
    names = [(one["model"], one["backend"]) for one in found["subjects"]]
    assert names == [("sanac:tiny", "torch"), (str(pruned), "torch"), (str(pruned), "onnx")]
    for one in found["subjects"]:
        assert 0 < one["memory"]["anonymous"] <= one["memory"]["resident"]
        assert one["load"] > 0
        for batch, about in one["batches"].items():
            seconds = about["seconds"]
            assert seconds["step"]["count"] == 2 * 2, "rounds x steps"
            assert seconds["decoder"]["count"] == seconds["image"]["count"] == 2
            assert seconds["text_encoder"]["count"] == 2 * 2, "with guidance: the prompt, and none"
            inside = 2 * seconds["step"]["median"] + seconds["decoder"]["median"]
            assert inside < seconds["image"]["p90"], "parts take no longer than the whole"
            assert about["images per second"] == pytest.approx(int(batch) / seconds["image"]["median"])
            ratio = about["faster than the first"]
            assert ratio["least"] <= ratio["median"] <= ratio["most"]
    first = found["subjects"][0]["batches"]["1"]
    assert first["faster than the first"] == {"median": 1, "least": 1, "most": 1}
    assert any("2 rounds are too few" in doubt for doubt in found["doubts"])
    for home in (pruned, tmp_path / "kept"):
        assert json.loads((home / "measurements" / "bench.json").read_text())["subjects"] == found["subjects"]
    metrics = json.loads((pruned / "measurements" / "metrics.json").read_text())
    assert {"bench/onnx/batch1/step_ms", "bench/torch/batch2/speedup", "bench/torch/peak_bytes"} <= metrics.keys()


def test_people_see_what_is_compared(sanac: Sanac, pruned: Path) -> None:
    ran = sanac("bench", pruned, "--backend", "torch,onnx", *QUICK, "--size", "64x64", "--tile", "32")
    assert ran.code == 0, ran.err
    assert "images/s" in ran.out
    assert "warning: " in ran.err


def test_a_transformer_without_its_pipeline(sanac: Sanac, sharded: Path) -> None:
    """Steps are timed."""
    ran = sanac("bench", sharded, *QUICK, "--json")
    assert ran.code == 0, ran.err
    (one,) = ran.json["subjects"]
    assert one["batches"]["1"]["seconds"].keys() == {"step"}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["sanac:tiny", "sharded"])
def test_compiled(sanac: Sanac, sharded: Path, model: str) -> None:
    where = sharded if model == "sharded" else model
    ran = sanac("bench", where, "--backend", "torch,compile", *QUICK, "--json")
    assert ran.code == 0, ran.err
    eager, compiled = ran.json["subjects"]
    assert compiled["batches"]["1"]["first call"] > eager["batches"]["1"]["first call"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("sanac:tiny", "--backend", "tpu,onnx,gpu"), 2, "--backend is 'tpu', not one of torch"),
        (("sanac:tiny", "--backend", "onnx"), 2, "sanac export sanac:tiny"),
        (("sanac:tiny", "--batch", "1,x"), 2, "--batch is 'x', not a whole number"),
        (("sanac:tiny", "--size", "65x64"), 2, "not a multiple"),
        (("sanac:tiny", "--backend", "torch,torch"), 2, "names 'torch' twice"),
        (("nowhere",), 2, "nowhere"),
        (("sanac:tiny", "--device", "cuda"), 4, "no such GPU"),
    ],
)
def test_what_can_t_be_measured(sanac: Sanac, words: tuple[str, ...], code: int, said: str) -> None:
    ran = sanac("bench", *words, *QUICK)
    assert (ran.code, said in ran.err) == (code, True), ran.err


def test_a_process_that_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system does where memory ran out."""
    load = benching._Worker.load

    def killed(worker: benching._Worker) -> None:
        load(worker)
        worker.process.kill()

    monkeypatch.setattr(benching._Worker, "load", killed)
    with pytest.raises(MissingResource, match="could not be measured") as caught:
        benching.bench([Subject("tiny", "sanac:tiny", "torch")], BenchRun(steps=1, rounds=1), NULL_REPORTER)
    assert "memory ran out" in caught.value.why


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sanac", "bench", "sanac:tiny", "--rounds", "500"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    while "rounds take about" not in process.stderr.readline():
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    for _ in range(300):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            break
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert not list(tmp_path.iterdir())


def test_doubts() -> None:
    steady = [1.0, 1.01, 0.99, 1.0, 1.02, 1.0]
    assert noise_warnings(Contention(10, 0.5), {"a": steady}) == []
    (others,) = noise_warnings(Contention(10, 9), {"a": steady})
    assert "0.9 cores" in others
    (limit,) = noise_warnings(Contention(10, 0, 2), {"a": steady})
    assert "a CPU limit throttled this process for 2.0 s of 10 s" in limit
    (spread,) = noise_warnings(Contention(10), {"b": [1, 1.5, 1.5, 1, 1, 1.5, 1.5, 1]})
    assert spread.startswith("b: the middle half of the rounds differs by")
    (drift,) = noise_warnings(Contention(10), {"c": [1, 1, 1, 1.09, 1.09, 1.09]})
    assert "9% longer" in drift


def test_others_at_work_are_seen() -> None:
    """A process that is not ours and keeps a processor busy; the same one, said to be ours, is no other."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        theirs, ours = Contention(), Contention()
        with watch_contention(theirs, []), watch_contention(ours, [busy.pid]):
            time.sleep(1.5)
    finally:
        busy.kill()
        busy.wait()
    assert theirs.cores - ours.cores > 0.2


def test_ratios_are_of_rounds() -> None:
    """A machine that is slow for a round is slow for both."""

    def measured(seconds: list[float]) -> Measured:
        found = Measured(Subject("a", "a", "torch"), warm={1: 1.0})
        found.rounds[1] = [{"image": [one], "transformer": [one / 10] * 10} for one in seconds]
        return found

    slow, fast = measured([1, 2, 8]), measured([0.5, 1, 4])
    ratio = fast.ratio(slow, 1)
    assert (ratio.median, ratio.least, ratio.most) == (2, 2, 2)
    assert Times.of([3, 1, 2]) == Times(2, 3, 3)
    assert Times.of(range(100)).p90 == 90
    found = BenchReport((slow, fast), BenchRun(rounds=3), ()).metrics("a")
    assert found["torch/batch1/speedup"] == 2


def test_the_same_twice_makes_no_sense() -> None:
    one = Subject("tiny", "sanac:tiny", "torch")
    with pytest.raises(UsageError, match="listed twice"):
        benching.bench([one, one], BenchRun(), NULL_REPORTER)


def test_a_worker_ends_with_its_parent() -> None:
    """However that ends."""
    task = {"parent": 1, "model": "sanac:tiny", "backend": "torch"}
    task |= dict.fromkeys(("device", "steps", "size", "threads", "tile")) | {"guidance": 4.5}
    command = [sys.executable, "-P", "-m", "sanac.verify.bench_worker"]
    ran = subprocess.run(command, input=json.dumps(task) + "\n", capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (1, ""), f"{os.getpid()} is its parent, not 1"
