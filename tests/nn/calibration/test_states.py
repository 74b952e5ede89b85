"""Calibration states: asked in pieces they say the same, and only blocks that are needed are read."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import MissingResource, UsageError
from sanac.core.progress import NULL_REPORTER, NullReporter
from sanac.nn.blocks.block import block
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates, SweepBatch
from sanac.nn.streaming import Blocks

CHOICES = ((0, 2, 4), (0, 1, 2, 4, 5), (1, 5))


class Heard(NullReporter):
    """What was noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def states(pipeline: Path) -> CalibrationStates:
    with torch.no_grad():
        return calibration(
            open_model(locate(str(pipeline))), CalibrationSettings(num_prompts=5, timesteps=3), every=1
        ).sample()


@pytest.mark.parametrize("prompts", [1, 2, 5, 7, 10, 100])
@pytest.mark.parametrize("choices", [1, 2, 3])
def test_errors_don_t_hang_on_how_many_go_together(states: CalibrationStates, prompts: int, choices: int) -> None:
    with torch.no_grad():
        whole, parts = states.errors(CHOICES), states.errors(CHOICES, SweepBatch(prompts, choices))
    for kept in CHOICES:
        assert whole[kept].shape == (3, 5)
        assert torch.allclose(parts[kept], whole[kept], rtol=1e-4), kept


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_errors_don_t_hang_on_batches(states: CalibrationStates, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(tensors, state, *more):
        sizes.append(len(state))
        return block(tensors, state, *more)

    with torch.no_grad():
        whole = states.errors(CHOICES)
        monkeypatch.setattr("sanac.nn.calibration.block_subsets.block", watched)
        parts = replace(states, batch=batch).errors(CHOICES)
    assert max(sizes) == batch
    for kept in CHOICES:
        assert torch.allclose(parts[kept], whole[kept], rtol=1e-4), kept


def test_a_smaller_limit_gives_smaller_batches_and_then_fewer_prompts(pipeline: Path) -> None:
    model = open_model(locate(str(pipeline)))
    jobs = [
        calibration(model, CalibrationSettings(num_prompts=50, memory_limit=limit), every=1)
        for limit in (2 * 10**9, 10**7)
    ]
    assert [job.batch for job in jobs] == [64, 5]
    assert jobs[0].fit_to_memory(0, jobs[0].state_bytes, NULL_REPORTER).count == 50
    fewer = jobs[1].fit_to_memory(0, 200_000, NULL_REPORTER)
    assert (fewer.count, fewer.batch) == (24, 1), "all that there is goes to prompts"


def test_who_names_no_limit_gets_all_prompts_or_none(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes out does not hang on the memory that happens to be free."""
    monkeypatch.setattr("sanac.nn.calibration.job.free_memory", lambda _: 5 * 10**9)
    model, reporter = open_model(locate(str(pipeline))), Heard()
    free, held = (
        calibration(model, CalibrationSettings(num_prompts=50, memory_limit=said), every=1)
        for said in (None, 2 * 10**9)
    )
    assert free.batch == held.batch, "the same arithmetic"
    assert free.fit_to_memory(0, 10**6, reporter).count == 50
    free.fit_to_memory(0, 10**6, reporter).check_room(reporter)
    assert not reporter.lines, "the usual limit is enough"
    more = free.fit_to_memory(0, 8 * 10**7, reporter)
    more.check_room(reporter)
    assert more.count == 50
    assert "takes 4.0" in reporter.lines[0]
    much = free.fit_to_memory(0, 10**9, reporter)
    with pytest.raises(MissingResource, match=r"5\.00 GB are free") as lacking:
        much.check_room(reporter)
    assert much.count == 50
    assert "--num-prompts 4," in lacking.value.hint
    assert held.fit_to_memory(0, 4 * 10**8, reporter).count == 4
    assert "4 of 50 prompts fit" in reporter.lines[1]


@pytest.mark.parametrize("each", [10**5, 10**6])
def test_the_hint_is_enough_and_more_memory_never_means_fewer_prompts(pipeline: Path, each: int) -> None:
    model = open_model(locate(str(pipeline)))
    with pytest.raises(UsageError) as small:
        calibration(model, CalibrationSettings(num_prompts=50, memory_limit=10**6), every=1).fit_to_memory(
            0, each, NULL_REPORTER
        )
    least = int(re.search(r"--memory-limit (\d+)MB", small.value.hint)[1])
    limits = [least * 10**6 + step * 10**6 for step in range(0, 60, 3)]
    counts = [
        calibration(model, CalibrationSettings(num_prompts=50, memory_limit=limit), every=1)
        .fit_to_memory(0, each, NULL_REPORTER)
        .count
        for limit in limits
    ]
    assert counts[0] >= 3
    assert counts == sorted(counts)


def test_dropped_blocks_are_not_read(states: CalibrationStates, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    block = Blocks.block
    monkeypatch.setattr(Blocks, "block", lambda self, index: (read.append(index), block(self, index))[1])
    with torch.no_grad():
        states.errors([(0, 2, 4), (2, 4)])
    assert read == [0, 2, 4], "once for all moments"


def test_the_whole_model_predicts_what_it_predicted(states: CalibrationStates) -> None:
    whole = tuple(range(6))
    with torch.no_grad():
        assert float(states.errors([whole])[whole].max()) < 1e-9


def test_prompts_to_fit_on_and_to_judge_by_are_apart(pipeline: Path, states: CalibrationStates) -> None:
    job = calibration(open_model(locate(str(pipeline))), CalibrationSettings(num_prompts=5, timesteps=3), every=1)
    with torch.no_grad():
        parts = job.states([1, 1])
    for number, moment in enumerate(states.moments):
        cut = [part.moments[number].latents for part in parts]
        assert [len(part) for part in cut] == [3, 1, 1]
        assert torch.equal(torch.cat(cut), moment.latents)
    assert torch.equal(torch.cat([part.captions.embeddings for part in parts]), states.captions.embeddings)
