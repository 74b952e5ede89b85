"""What judges are trained on: trajectories with the detector's verdicts, and prompts to ask about."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.judge.preview_judge import HEADS, JudgeShape, PreviewJudge
from sanac.judge.shapes import judge_pictures
from sanac.judge.state_judge import StateJudge, StateJudgeShape
from sanac.nn.generation import GenerationSettings
from sanac.nn.stock_loading import load_component
from sanac.reinforce.judge_task import PreviewJudgeTask, RunExamples, decoded, familiar, neighbours, settled, task_of
from sanac.reinforce.state_task import StateJudgeTask, targets_of
from sanac.reinforce.trajectories import Trajectories, gather
from sanac.reinforce.variants import Variant, gather_variants, random_variants, tap_of
from sanac.runtime.pipeline import open_generator
from sanac.runtime.stepwise import StepwiseSana
from sanac.shapes.prompts import Prompt, suite
from sanac.shapes.words import TAGS, VOCABULARY

STEPS, RUNS = 6, 12


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model(locate("sanac:tiny"))


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return suite("train", RUNS)


@pytest.fixture(scope="module")
def data(model: Model, prompts: list[Prompt], tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    file = tmp_path_factory.mktemp("data") / "trajectories.safetensors"
    generator = StepwiseSana(open_generator(model), GenerationSettings(STEPS, batch=5), (3, 11))
    how = ([prompt.text for prompt in prompts], range(RUNS), range(100, 100 + RUNS), file, NULL_REPORTER)
    found = gather(generator, *how)
    spent = generator.spent.forwards
    again = gather(generator, *how)
    assert generator.spent.forwards == spent, "read, not generated"
    assert torch.equal(again.guesses, found.guesses)
    return found


def test_the_last_image_is_the_generators(model: Model, prompts: list[Prompt], data: Trajectories) -> None:
    generator = open_generator(model)
    texts = [prompt.text for prompt in prompts]
    images = np.concatenate(list(generator.generate(texts, range(100, 100 + RUNS), GenerationSettings(STEPS))))
    verdicts = [verdict.correct for verdict in judge_pictures(prompts, list(images))]
    found = [data.correct(run, -1, task_of(prompts[run].content)) for run in range(RUNS)]
    assert found == verdicts
    assert data.guesses.shape[:2] == (RUNS, STEPS + 1)
    assert data.states.shape == (RUNS, STEPS, 2, 16, 96)
    assert data.noise[0] > data.noise[-2] > data.noise[-1] == 0
    assert all(settled(data, run, -1) for run in range(RUNS))
    assert not all(settled(data, run, 0) for run in range(RUNS))


def test_targets_are_the_detectors_verdicts(prompts: list[Prompt], data: Trajectories) -> None:
    targets = targets_of(data, prompts)
    assert targets.shape == (RUNS, STEPS, len(HEADS))
    for run in range(RUNS):
        task = task_of(prompts[run].content)
        assert targets[run, :, 1].eq(float(data.correct(run, -1, task))).all(), "one future for all steps"
        assert targets[run, -1, 2] == float(data.correct(run, STEPS - 1, task))


def test_previews_are_asked_about_three_prompts(model: Model, prompts: list[Prompt], data: Trajectories) -> None:
    task = RunExamples(decoded(load_component(model, "vae", torch.float32)), [data], prompts)
    rng = np.random.default_rng(0)
    for run in range(RUNS):
        own, near, other = task._asked(data, run, rng)
        assert own == prompts[run]
        assert near.content in neighbours(own.content)
        assert not other.content.held_out
    shown = [content for _ in range(40) if (content := task._true(data, 0, rng))]
    assert shown
    assert all(data.correct(0, -1, task_of(content)) for content in shown)


@pytest.mark.parametrize("kind", ["previews", "states"])
def test_a_judge_learns_what_it_is_shown(model: Model, prompts: list[Prompt], data: Trajectories, kind: str) -> None:
    torch.manual_seed(0)
    task: PreviewJudgeTask | StateJudgeTask
    if kind == "previews":
        shape = JudgeShape(VOCABULARY, width=32, encoder_layers=1, decoder_layers=1)
        examples = RunExamples(decoded(load_component(model, "vae", torch.float32)), [data], prompts)
        task = PreviewJudgeTask(PreviewJudge(shape), examples, 16)
    else:
        task = StateJudgeTask(StateJudge(StateJudgeShape(3, 96, 64)), [data], prompts, 0, 64)
    optimizer = torch.optim.AdamW(task.network.parameters(), 3e-3)
    losses = []
    for step in range(40):
        loss = task.loss(torch.Generator().manual_seed(step % 4), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    first = task.loss(torch.Generator().manual_seed(7), 0)
    assert first.item() == task.loss(torch.Generator().manual_seed(7), 0).item(), "a batch follows from its seed"


@given(st.sampled_from([content for tag in TAGS for content in familiar(tag)]))
@settings(max_examples=60, deadline=None)
def test_neighbours_are_other_prompts_of_the_same_task(content: object) -> None:
    near = neighbours(content)
    assert near
    for other in near:
        assert other != content
        assert other.tag == content.tag
        assert not other.held_out
        assert content in neighbours(other)


def test_variants_are_all_different_and_follow_from_the_seed() -> None:
    found = random_variants(range(4, 12), (5, 6, 7), 9, 10, seed=1)
    assert [len(one.dropped) for one in found] == [5, 6, 7] * 3
    assert len({one.dropped for one in found}) == 9
    assert found == random_variants(range(4, 12), (5, 6, 7), 9, 10, seed=1)
    assert found != random_variants(range(4, 12), (5, 6, 7), 9, 10, seed=2)


def test_a_variant_runs_without_its_blocks(model: Model, prompts: list[Prompt], tmp_path: Path) -> None:
    variants = [Variant(2), Variant(2, dropped=(4, 11))]
    whole, cut = gather_variants(model, variants, prompts, (3, 11), 5, tmp_path, None, NULL_REPORTER)
    assert whole.prompts.tolist() == [0, 1]
    assert cut.prompts.tolist() == [2, 3]
    assert [tap_of(block, (4, 11)) for block in (3, 4, 11)] == [3, 3, 10]
    assert not torch.equal(whole.guesses, cut.guesses)
    names = sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir())
    assert names == sorted(one.name for one in variants), "and a digest of all that they depend on"
