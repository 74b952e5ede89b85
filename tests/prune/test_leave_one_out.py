"""The velocity metric, and what the verbs make of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.prune.scoring import measured
from tests.conftest import Sanac

FEW = ("--num-prompts", "4", "--timesteps", "4")


def test_velocity_is_what_leaving_a_block_out_changes(pipeline: Path, tmp_path: Path) -> None:
    model = open_model(locate(str(pipeline)))
    wanted = CalibrationSettings(num_prompts=3, timesteps=2, velocity=True)
    found = measured(model, wanted, tmp_path / "a", NULL_REPORTER)
    assert set(found.metrics) == {"bi", "norm", "velocity"}
    with torch.no_grad():
        states = calibration(model, wanted, every=1).sample()
    for left in (0, 5):
        kept = tuple(index for index in range(6) if index != left)
        with torch.no_grad():
            error = states.errors([kept])[kept]
        assert found.metrics["velocity"][left].value == pytest.approx(float(error.mean()), rel=1e-4)
        assert found.metrics["velocity"][left].by_step == pytest.approx(error.mean(dim=1).tolist(), rel=1e-4)
    plain = measured(model, CalibrationSettings(num_prompts=3, timesteps=2), tmp_path / "b", NULL_REPORTER)
    assert plain.of("bi") == found.of("bi")
    tight = replace(wanted, memory_limit=4_000_000)  # not even all choices of one prompt fit
    chunked = measured(model, tight, tmp_path / "c", NULL_REPORTER)
    assert chunked.of("velocity") == pytest.approx(found.of("velocity"), rel=1e-3)


def test_prune_by_velocity_keeps_the_best(sanac: Sanac, pipeline: Path) -> None:
    scores = sanac("analyze", pipeline, *FEW, "--metric", "velocity", "--json").json["metrics"]["velocity"]
    best = sorted(sorted(range(6), key=lambda index: -scores[index]["value"])[:3])
    ran = sanac("prune", pipeline, "--target-blocks", "3", "--select", "velocity", *FEW, "--json")
    assert [origin["keep"] for origin in ran.json["plan"]["blocks"]] == best


def test_prune_by_search_is_cached_and_says_what_it_costs(sanac: Sanac, pipeline: Path) -> None:
    arguments = ("prune", pipeline, "--target-blocks", "3", "--select", "search", *FEW, "--protect-first", "1")
    first = sanac(*arguments, "--json")
    assert first.code == 0, first.err
    assert "searching on 4 prompts" in first.err
    assert "on held-out prompts" in first.err
    kept = [origin["keep"] for origin in first.json["plan"]["blocks"]]
    assert len(kept) == 3
    assert kept[0] == 0
    again = sanac(*arguments, "--json")
    assert again.json["status"] == "cached"
    assert "about" not in again.err, "nothing is searched again"
    other = sanac(*arguments, "--seed", "3", "--json")
    assert other.json["key"] != first.json["key"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target-blocks", "3", "--select", "search", "--scores", "x.json"), "leave --scores out"),
        (("--target-blocks", "7", "--select", "search"), "between 1 and 6"),
        (("--target-blocks", "3", "--select", "search", "--num-prompts", "1"), "1 prompts are too few"),
        (("--target-blocks", "3", "--select", "search", "--memory-limit", "1KB"), "--memory-limit"),
        (("--keep", "0-2", "--compensate", "--memory-limit", "1KB"), "--memory-limit"),
    ],
)
def test_what_can_t_be_done_is_said_before_anything_is_written(
    sanac: Sanac, pipeline: Path, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    ran = sanac("prune", pipeline, *options)
    assert ran.code == 2, ran.err
    assert words in ran.err
    assert not list(tmp_path.glob("sanac-out/*/*"))
