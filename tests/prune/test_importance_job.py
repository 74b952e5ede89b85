"""Measuring goes on where it was stopped, inside a step too; chunks and limits change nothing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import UsageError
from sanac.core.progress import NULL_REPORTER, NullReporter
from sanac.nn.calibration.sampling import SamplerSettings
from sanac.nn.calibration.text_encoding import EncodedPrompts, encode
from sanac.nn.pipeline_config import scheduler_of
from sanac.nn.streaming import Blocks
from sanac.prune import resume
from sanac.prune.importance_job import ImportanceJob, analyze
from sanac.prune.scores import Scores

PROMPTS = ("two red circles", "a blue square above a cross", "a triangle", "a red cross")
STEPS, BLOCKS = 3, 6


@pytest.fixture(scope="module")
def model(pipeline: Path) -> Model:
    return open_model(locate(str(pipeline)))


@pytest.fixture(scope="module")
def captions(model: Model) -> EncodedPrompts:
    return encode(model, PROMPTS, torch.device("cpu"))


@pytest.fixture
def job(model: Model, monkeypatch: pytest.MonkeyPatch) -> ImportanceJob:
    """Blocks are streamed, and everything is saved at once."""
    monkeypatch.setattr(resume, "_PAUSE", 0.0)
    monkeypatch.setattr(resume, "_SHARE", 0.0)
    sampling = SamplerSettings(STEPS, side=4, batch=3, seed=5)
    return ImportanceJob(
        model, PROMPTS, sampling, scheduler_of(model), whole_samples=False, memory_limit=8_000_000, device="cpu"
    )


class Stopped(Exception): ...


class Stopping(NullReporter):
    """Listens until so many blocks are done, then stops the run."""

    def __init__(self, blocks: int) -> None:
        self.left = blocks

    def advance(self, amount: int, state: str = "") -> None:
        self.left -= amount
        if self.left <= 0:
            raise Stopped


def text(scores: Scores) -> str:
    return json.dumps(scores.to_json(), sort_keys=True)


def smallest(job: ImportanceJob, captions: EncodedPrompts, prompts: int) -> int:
    """The memory limit that so many prompts just fit into."""
    low, high = 1, job.memory_limit
    while low < high:
        middle = (low + high) // 2
        try:
            fits = replace(job, memory_limit=middle).chunk(captions) >= prompts
        except UsageError:
            fits = False
        low, high = (low, middle) if fits else (middle + 1, high)
    return low


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the blocks that were read, in order."""
    found: list[int] = []
    real: Callable = Blocks.block

    def block(self: Blocks, index: int) -> object:
        found.append(index)
        return real(self, index)

    monkeypatch.setattr(Blocks, "block", block)
    return found


@pytest.mark.parametrize("stopped", [1, 2, BLOCKS - 1, BLOCKS, BLOCKS + 1, 2 * BLOCKS + 4, STEPS * BLOCKS])
def test_it_continues_at_the_block_where_it_was_stopped(
    stopped: int, job: ImportanceJob, captions: EncodedPrompts, reads: list[int], tmp_path: Path
) -> None:
    whole = analyze(job, captions, tmp_path, NULL_REPORTER)
    next((tmp_path / ".progress").glob("prompts-*")).unlink()
    with pytest.raises(Stopped):
        analyze(job, captions, tmp_path, Stopping(stopped))
    reads.clear()
    assert text(analyze(job, captions, tmp_path, NULL_REPORTER)) == text(whole)
    saved = stopped - 1  # the block that was announced last was not saved yet
    assert reads == ([*range(BLOCKS)] * STEPS)[saved:]


def test_what_is_finished_is_not_computed_again(
    job: ImportanceJob, captions: EncodedPrompts, reads: list[int], tmp_path: Path
) -> None:
    first = analyze(job, captions, tmp_path, NULL_REPORTER)
    reads.clear()
    assert text(analyze(job, captions, tmp_path, NULL_REPORTER)) == text(first)
    assert reads == []


@pytest.mark.parametrize("damage", ["another job", "cut off", "other prompts", "other batches"])
def test_what_does_not_fit_is_not_continued(
    damage: str, job: ImportanceJob, captions: EncodedPrompts, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = analyze(job, captions, tmp_path / "a", NULL_REPORTER)
    with pytest.raises(Stopped):
        analyze(job, captions, tmp_path / "b", Stopping(BLOCKS + 3))
    path = tmp_path / "b" / ".progress" / "prompts-0.safetensors"
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "another job":
        other = replace(job, sampling=replace(job.sampling, seed=6))
        assert text(analyze(other, captions, tmp_path / "b", NULL_REPORTER)) != text(whole)
    elif damage == "other prompts":
        assert len(analyze(job, captions.part(0, 2), tmp_path / "b", NULL_REPORTER).of("bi")) == BLOCKS
    else:
        batches = replace(job, sampling=replace(job.sampling, batch=2))
        found = analyze(batches, captions, tmp_path / "b", NULL_REPORTER).of("bi")
        assert found == pytest.approx(whole.of("bi"), rel=1e-5)
        path.unlink()
    assert text(analyze(job, captions, tmp_path / "b", NULL_REPORTER)) == text(whole)


def test_chunks_change_nothing(job: ImportanceJob, captions: EncodedPrompts, tmp_path: Path) -> None:
    whole = analyze(job, captions, tmp_path, NULL_REPORTER).of("bi")
    tight = replace(job, memory_limit=smallest(job, captions, 1))
    assert tight.chunk(captions) == 1
    with pytest.raises(UsageError, match="too small"):
        replace(tight, memory_limit=tight.memory_limit - 1).chunk(captions)
    (tmp_path / "tight").mkdir()
    assert analyze(tight, captions, tmp_path / "tight", NULL_REPORTER).of("bi") == pytest.approx(whole, rel=1e-4)
    assert len(list((tmp_path / "tight" / ".progress").iterdir())) == len(PROMPTS)


def test_saving_takes_a_small_share_of_the_time(tmp_path: Path) -> None:
    journal = resume.ResumeFile(tmp_path / "file.safetensors", "key")
    assert not journal.due
    saved = resume.ResumeState(torch.zeros(2, 3), (torch.ones(1, 2),))
    journal.save(saved)
    assert not journal.due
    found = journal.load((2, 3))
    assert found is not None
    assert torch.equal(found.velocities[0], saved.velocities[0])
    assert journal.load((2, 4)) is None
    assert resume.ResumeFile(journal.path, "other").load((2, 3)) is None
