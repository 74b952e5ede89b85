"""The head on the generator's states: what it reads, and where it reads in models with fewer blocks."""

from pathlib import Path

import pytest
import torch

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput
from sanac.judge.judge_files import STATE_JUDGE as KIND
from sanac.judge.judge_files import judge_files, save_judge
from sanac.judge.state_judge import StateJudge, StateJudgeShape, StateReader, block_in, mean_embedding
from tests.conftest import Sanac

SHAPE = StateJudgeShape(block=3, channels=12, caption=6, width=16, heads=2)


def test_it_reads_states_caption_noise_and_places(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_judge(StateJudge(SHAPE), SHAPE.to_json(), ConfinedPath(tmp_path) / "head")
    reader = StateReader.open(judge_files(str(tmp_path / "head"), KIND), "cpu")
    states, caption = torch.randn(2, 6, 12), torch.randn(2, 6)
    first, second = reader.readings(states, caption, 0.5, 3)
    (alone,) = reader.readings(states[:1], caption[:1], 0.5, 3)
    assert alone.potential == pytest.approx(first.potential, abs=1e-6)
    others = [
        second,
        *reader.readings(states[:1], caption[1:], 0.5, 3),
        *reader.readings(states[:1], caption[:1], 0.1, 3),
        *reader.readings(states[:1].flip(1), caption[:1], 0.5, 3),
        *reader.readings(states[:1], caption[:1], 0.5, 2),
    ]
    assert len({round(one.potential, 7) for one in (first, *others)}) == 6
    scaled = reader.readings(100 * states[:1] + 7, caption[:1], 0.5, 3)
    assert scaled[0].potential == pytest.approx(first.potential, abs=1e-3), "tokens are normalised"


def test_blocks_are_known_by_their_first_number(sanac: Sanac, pipeline: Path) -> None:
    assert block_in(open_model(locate(str(pipeline))), 3) == 3
    assert sanac("prune", pipeline, "--keep", "1,3,5", "--out", "once").code == 0
    once = open_model(locate("once"))
    assert [block_in(once, original) for original in (1, 2, 3, 4, 5)] == [0, 0, 1, 1, 2]
    with pytest.raises(InvalidInput, match="no block for a head behind block 0"):
        block_in(once, 0)
    assert sanac("prune", "once", "--keep", "0,2", "--out", "twice").code == 0
    assert [block_in(open_model(locate("twice")), original) for original in (1, 3, 5)] == [0, 0, 1]
    assert sanac("grow", "once", "--target-blocks", "5", "--out", "grown").code == 0
    grown = open_model(locate("grown"))
    assert grown.manifest
    assert grown.manifest.origins
    assert grown.manifest.origins[block_in(grown, 5)] is not None


def test_padding_is_not_part_of_the_mean() -> None:
    embeddings = torch.tensor([[[1.0], [3.0], [50.0]]])
    assert mean_embedding(embeddings, torch.tensor([[1, 1, 0]])).tolist() == [[2.0]]


@pytest.mark.parametrize("change", [{"width": 15}, {"heads": 0}, {"block": -1}, {"channels": "12"}])
def test_malformed_configs_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="malformed"):
        StateJudgeShape.from_json(SHAPE.to_json() | change)
