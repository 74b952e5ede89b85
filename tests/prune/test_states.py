"""Calibration states: asked in pieces they say the same, and only blocks that are needed are read."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanac.core.locate import locate
from sanac.core.model import open_model
from sanac.core.talk import SILENCE, Silence
from sanac.nn.block import block
from sanac.nn.weights import Blocks
from sanac.prune.calibrate import calibration
from sanac.prune.measure import Wanted
from sanac.prune.states import States

CHOICES = ((0, 2, 4), (0, 1, 2, 4, 5), (1, 5))


class Heard(Silence):
    """What was noted."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def states(pipeline: Path) -> States:
    with torch.no_grad():
        return calibration(open_model(locate(str(pipeline))), Wanted(num_prompts=5, timesteps=3), every=1).whole()


@pytest.mark.parametrize("together", [1, 2, 5, 7, 10, 100])
def test_errors_don_t_hang_on_how_many_go_together(states: States, together: int) -> None:
    with torch.no_grad():
        whole, parts = states.errors(CHOICES), states.errors(CHOICES, together)
    for kept in CHOICES:
        assert whole[kept].shape == (3, 5)
        assert torch.allclose(parts[kept], whole[kept], rtol=1e-4), kept


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_errors_don_t_hang_on_batches(states: States, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(tensors, state, *more):
        sizes.append(len(state))
        return block(tensors, state, *more)

    with torch.no_grad():
        whole = states.errors(CHOICES)
        monkeypatch.setattr("sanac.nn.subsets.block", watched)
        parts = replace(states, batch=batch).errors(CHOICES)
    assert max(sizes) == batch
    for kept in CHOICES:
        assert torch.allclose(parts[kept], whole[kept], rtol=1e-4), kept


def test_a_smaller_limit_gives_smaller_batches_and_then_fewer_prompts(pipeline: Path) -> None:
    model = open_model(locate(str(pipeline)))
    jobs = [calibration(model, Wanted(num_prompts=50, memory_limit=limit), every=1) for limit in (2 * 10**9, 10**7)]
    assert [job.batch for job in jobs] == [64, 5]
    assert jobs[0].within(0, jobs[0].state_bytes, SILENCE).count == 50
    assert jobs[1].within(0, 200_000, SILENCE).count == 22


def test_who_names_no_limit_gets_more_where_it_is_needed(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanac.prune.calibrate.free_memory", lambda _: 10 * 10**9)
    model, talk = open_model(locate(str(pipeline))), Heard()
    free, held = (calibration(model, Wanted(num_prompts=50, memory_limit=said), every=1) for said in (None, 2 * 10**9))
    assert free.batch == held.batch, "the same arithmetic"
    assert free.within(0, 10**6, talk).count == 50
    assert not talk.lines, "the usual limit is enough"
    assert free.within(0, 8 * 10**7, talk).count == 50
    assert "takes up to 4.0" in talk.lines[0]
    assert free.within(0, 10**9, talk).count == held.within(0, 4 * 10**8, talk).count == 4
    assert "4 of 50 prompts fit into 5.00 GB" in talk.lines[1]


def test_dropped_blocks_are_not_read(states: States, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    block = Blocks.block
    monkeypatch.setattr(Blocks, "block", lambda self, index: (read.append(index), block(self, index))[1])
    with torch.no_grad():
        states.errors([(0, 2, 4), (2, 4)])
    assert read == [0, 2, 4], "once for all moments"


def test_the_whole_model_predicts_what_it_predicted(states: States) -> None:
    whole = tuple(range(6))
    with torch.no_grad():
        assert float(states.errors([whole])[whole].max()) < 1e-9


def test_prompts_to_fit_on_and_to_judge_by_are_apart(pipeline: Path, states: States) -> None:
    job = calibration(open_model(locate(str(pipeline))), Wanted(num_prompts=5, timesteps=3), every=1)
    with torch.no_grad():
        parts = job.states([1, 1])
    for number, moment in enumerate(states.moments):
        cut = [part.moments[number].latents for part in parts]
        assert [len(part) for part in cut] == [3, 1, 1]
        assert torch.equal(torch.cat(cut), moment.latents)
    assert torch.equal(torch.cat([part.captions.embeddings for part in parts]), states.captions.embeddings)
