"""Block importance by its definition, and the choice that follows from it."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sanac.core.artifact.model import open_model
from sanac.core.artifact.plan import Keep
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, UsageError
from sanac.nn.calibration.prompts import bundled_prompts, default_prompts, read_prompts
from sanac.nn.calibration.sampling import BlockCall
from sanac.prune.importance import ImportanceRecorder
from sanac.prune.scores import read_scores, score
from sanac.prune.selection import BlockSelection, best, depth_of, nearest_depth
from sanac.tiny import build


def test_a_block_that_changes_nothing_is_worth_nothing() -> None:
    watcher = ImportanceRecorder(1, 1, 4)
    state = torch.randn(4, 9, 16)
    for branch in (0, 1):
        watcher(BlockCall(0, 0, branch, 0), state, state.clone())
    assert float(watcher.by_prompt("bi").abs().max()) < 1e-6
    assert float(watcher.by_prompt("norm").abs().max()) == 0


def test_importance_is_one_minus_the_cosine_per_token() -> None:
    watcher, whole = ImportanceRecorder(1, 1, 2), ImportanceRecorder(1, 1, 2, whole_samples=True)
    before, after = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    for seen in (watcher, whole):
        for branch in (0, 1):
            seen(BlockCall(0, 0, branch, 0), before, after)
    cosine = (before * after).sum(-1) / (before.norm(dim=-1) * after.norm(dim=-1))
    assert torch.allclose(watcher.by_prompt("bi")[0], 1 - cosine.mean(1).double(), atol=1e-6)
    flat = (before * after).sum((1, 2)) / (before.flatten(1).norm(dim=1) * after.flatten(1).norm(dim=1))
    assert torch.allclose(whole.by_prompt("bi")[0], 1 - flat.double(), atol=1e-6)
    change = ((after - before).norm(dim=-1) / before.norm(dim=-1)).mean(1).double()
    assert torch.allclose(watcher.by_prompt("norm")[0], change, atol=1e-6)


def test_a_block_that_turns_the_stream_around_counts_more_than_one() -> None:
    watcher = ImportanceRecorder(1, 1, 1)
    state = torch.randn(1, 4, 8)
    for branch in (0, 1):
        watcher(BlockCall(0, 0, branch, 0), state, -state)
    assert float(watcher.by_prompt("bi")) == pytest.approx(2, abs=1e-6), "no absolute value is taken"


def test_batches_find_their_prompts() -> None:
    watcher = ImportanceRecorder(2, 2, 5, first=10)
    for step in range(2):
        for block in range(2):
            for branch in range(2):
                for first in (10, 12, 14):
                    count = min(2, 15 - first)
                    scale = torch.arange(first, first + count).view(-1, 1, 1) + 1.0
                    before = torch.ones(count, 3, 4)
                    watcher(BlockCall(step, block, branch, first), before, before * scale)
    assert watcher.by_prompt("norm")[1].tolist() == [10.0, 11.0, 12.0, 13.0, 14.0]
    assert watcher.by_step("norm").shape == (2, 2)
    assert not watcher.values[:2].isnan().any(), "the velocity is not read off the stream"


def test_scores_have_intervals_and_no_negative_values() -> None:
    found = score([0.1, 0.2, 0.3], [-1e-9, 0.4])
    assert found.value == pytest.approx(0.2)
    assert found.high - found.value == pytest.approx(1.96 * 0.1 / 3**0.5, rel=1e-3)
    assert found.by_step == (0.0, 0.4)
    assert score([-1e-9], [0.0]).value == 0


@given(st.lists(st.floats(0, 2), min_size=1, max_size=30), st.data())
def test_the_best_stay_in_order(values: list[float], data: st.DataObject) -> None:
    target = data.draw(st.integers(1, len(values)))
    first = data.draw(st.integers(0, target))
    last = data.draw(st.integers(0, target - first))
    plan = best(values, BlockSelection("bi", target, first, last))
    kept = [origin.block for origin in plan.blocks if isinstance(origin, Keep)]
    assert len(kept) == target
    assert kept == sorted(kept)
    assert set(range(first)) | set(range(len(values) - last, len(values))) <= set(kept)
    dropped = set(range(len(values))) - set(kept)
    free = [index for index in kept if first <= index < len(values) - last]
    assert all(values[index] >= values[other] for index in free for other in dropped)


@pytest.mark.parametrize(
    ("choice", "problems"),
    [
        (BlockSelection("bi", 0), 1),
        (BlockSelection("bi", -1), 1),
        (BlockSelection("bi", 7), 1),
        (BlockSelection("bi", 3, 2, 2), 1),
        (BlockSelection("bi", 0, 1, 0), 2),
    ],
)
def test_targets_that_make_no_sense(choice: BlockSelection, problems: int) -> None:
    with pytest.raises(UsageError) as caught:
        choice.check(6)
    assert len(caught.value.problems) == problems


def test_parameters_become_the_nearest_depth(pipeline: Path) -> None:
    architecture = open_model(locate(str(pipeline))).architecture
    sizes = {n: sum(p.numel() for p in build.transformer(n).parameters()) for n in (1, 2, 3)}
    for blocks, size in sizes.items():
        assert nearest_depth(architecture, size) == blocks
        assert nearest_depth(architecture, size + 70_000) == blocks, "half a block is 75 thousand"


@pytest.mark.parametrize("parameters", ["0", "1", "2M", "999B"])
def test_parameters_that_no_depth_comes_near(pipeline: Path, parameters: str) -> None:
    with pytest.raises(UsageError, match="out of range for pipeline"):
        depth_of(open_model(locate(str(pipeline))), None, parameters)


def test_prompts_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n  a dog  \n")
    assert read_prompts(path) == ["a cat", "a dog"]
    for content, says in ((b"\n \n", "has no prompts"), (b"\xff\xfe", "not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=says):
            read_prompts(path)
    with pytest.raises(InvalidInput, match="cannot read"):
        read_prompts(tmp_path / "none")


def test_a_hundred_prompts_are_bundled() -> None:
    assert len(bundled_prompts()) == len(set(bundled_prompts())) == 100
    assert default_prompts(7)[0] == bundled_prompts()[:7]
    assert default_prompts(7, build.tokenizer().get_vocab())[1] == "training prompts of the shapes world"
    with pytest.raises(UsageError, match="100 are bundled"):
        default_prompts(101)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"kind": "something"},
        {"metrics": {}},
        {"metrics": {"bi": [{"value": -1, "low": 0, "high": 0, "by_step": []}]}},
        {"metrics": {"bi": [{"value": "1", "low": 0, "high": 0, "by_step": []}]}},
        {"metrics": {"bi": [{"low": 0, "high": 0, "by_step": []}]}},
        {"metrics": {"bi": 3}},
        {"metrics": {"bi": [], "norm": [{"value": 1, "low": 0, "high": 0, "by_step": []}]}},
        {"model": 7},
        {"settings": None},
    ],
)
def test_what_is_no_scores_file(change: dict, tmp_path: Path) -> None:
    entry = {"block": 0, "value": 1.0, "low": 0.5, "high": 1.5, "by_step": [1.0]}
    good = {"schema": 1, "kind": "block scores", "model": "m", "name": "n", "settings": {}, "metrics": {"bi": [entry]}}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(good))
    assert read_scores(path).of("bi") == (1.0,)
    path.write_text(json.dumps(good | change))
    with pytest.raises(InvalidInput, match="not a scores file"):
        read_scores(path)
