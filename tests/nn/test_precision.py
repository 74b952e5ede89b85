"""The precision that a job computes in, and what a plan for another device knows about it."""

from pathlib import Path

import pytest
import torch

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.devices import parse_device
from sanac.core.errors import MissingResource
from sanac.judge.rank_statistics import spearman
from sanac.nn.calibration.memory import default_limit
from sanac.nn.calibration.settings import LIMIT, CalibrationSettings
from sanac.nn.device import free_memory, gpu_entry, pick_device, planning_for
from sanac.nn.device_speed import speed_of
from sanac.nn.precision import choose_precision, open_blocks, result_settings
from sanac.prune.importance import METRICS
from sanac.prune.scoring import plan_scoring
from tests.conftest import Sanac

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny() -> Model:
    return open_model(locate("sanac:tiny"))


def test_processors_compute_in_fp32_and_recent_gpus_as_the_checkpoint_is_stored(tiny: Model) -> None:
    assert choose_precision(None, "cpu", tiny) == "fp32"
    assert choose_precision("bf16", "cpu", tiny) == "bf16"
    with pytest.raises(MissingResource, match="Ampere"):
        choose_precision("tf32", "cpu", tiny)
    with planning_for(parse_device("RTX 4090")):
        assert choose_precision(None, "cuda", tiny) == "bf16"
        assert choose_precision("fp32", "cuda", tiny) == "fp32"
    with planning_for(parse_device("T4")):
        assert choose_precision(None, "cuda", tiny) == "fp32"


def test_a_checkpoint_in_fp32_is_computed_in_tf32(sanac: Sanac, pipeline: Path) -> None:
    with planning_for(parse_device("A100")):
        assert choose_precision(None, "cuda", open_model(locate(str(pipeline)))) == "tf32"


def test_plans_for_another_device_end_with_the_plan(tiny: Model) -> None:
    here = free_memory("cpu")
    with planning_for(parse_device("24GB")):
        assert pick_device(None) == "cuda"
        assert free_memory("cuda") == 24_000_000_000
        assert default_limit("cuda") == 19_200_000_000
        assert speed_of(tiny, "cuda", "bf16").source == "from its name"
        entry = gpu_entry("cuda")
        assert entry is not None
        assert entry.memory == 24_000_000_000
    assert gpu_entry("cpu") is None
    assert default_limit("cpu") == LIMIT
    assert abs(free_memory("cpu") - here) < here


def test_keys_of_fp32_are_those_of_before(tiny: Model, tmp_path: Path) -> None:
    assert result_settings("fp32") == {}
    fp32, bf16 = (plan_scoring(tiny, CalibrationSettings(precision=one), tmp_path).job for one in ("fp32", "bf16"))
    assert fp32.key == plan_scoring(tiny, CalibrationSettings(), tmp_path).job.key
    assert fp32.key != bf16.key


def test_half_precision_ranks_blocks_as_fp32_does(sanac: Sanac) -> None:
    """Of a real model, on few prompts: nearly the same order of all blocks, scores alike to two hundredths."""
    few = ("--num-prompts", "3", "--timesteps", "2", "--json")
    found = [sanac("analyze", "sanac:tiny", *few, "--precision", one).json["metrics"] for one in ("fp32", "bf16")]
    for metric in METRICS[:2]:
        one, other = ([block["value"] for block in scores[metric]] for scores in found)
        assert spearman(one, other) > 0.98, metric
        assert all(abs(a - b) < 0.02 * a for a, b in zip(one, other, strict=True)), metric


def test_sums_stay_in_fp32(tiny: Model) -> None:
    blocks = open_blocks(tiny, "cpu", "bf16")
    assert blocks.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in blocks.block(0).values()} == {torch.bfloat16}
