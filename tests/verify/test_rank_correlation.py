"""Do two models put the same noises first?"""

import json
from pathlib import Path

import pytest

from tests.conftest import Sanac

FEW = ("--rank-correlation", "--noises", "3", "--rank-prompts", "6", "--steps", "3")


@pytest.fixture
def pruned(sanac: Sanac) -> Path:
    assert sanac("prune", "sanac:tiny", "--keep", "0-3", "--out", "four").code == 0
    return Path("four")


def test_a_model_ranks_as_itself(sanac: Sanac) -> None:
    ran = sanac("verify", "sanac:tiny", "--against", "sanac:tiny", *FEW, "--least-kendall", "1", "--json")
    assert (ran.code, ran.json["status"]) == (0, "ok"), ran.err
    found = ran.json["correlations"]
    for name in ("Kendall's tau", "Spearman's rho", "top 1 in common"):
        assert (found[name]["value"], found[name]["low"]) == (pytest.approx(1), pytest.approx(1))
    assert ran.json["chance"]["top 1 in common"] == pytest.approx(1 / 3)
    for prompt in ran.json["prompts"]:
        assert prompt["reference"] == prompt["candidate"]


def test_one_that_was_cut_in_three_does_not(sanac: Sanac, pruned: Path) -> None:
    ran = sanac("verify", pruned, "--against", "sanac:tiny", *FEW, "--least-kendall", "0.9", "--candidate-steps", "2")
    assert (ran.code, "lower bound: " in ran.out, "NO" in ran.out) == (5, True, True), ran.err
    about = json.loads((pruned / "measurements" / "verify-ranks.json").read_text())
    assert about["sampling"]["candidate"]["steps"] == 2
    assert not about["figures"][0]["passed"]
    metrics = json.loads((pruned / "measurements" / "metrics.json").read_text())
    assert {"verify-ranks/kendall", "verify-ranks/spearman", "verify-ranks/top_1_in_common"} == metrics.keys()


def test_settings_of_what_nobody_asked_for(sanac: Sanac) -> None:
    ran = sanac("verify", "sanac:tiny", "--against", "sanac:tiny", "--noises", "4", "--least-kendall", "0")
    assert (ran.code, "--noises only applies with --rank-correlation" in ran.err) == (2, True), ran.err
