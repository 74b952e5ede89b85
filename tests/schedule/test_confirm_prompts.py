"""`schedule --confirm prompts`: the user's own prompts decide, also for models without the shapes world's words."""

import json
from pathlib import Path

import pytest

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from tests.conftest import Sanac
from tests.judge.small_judges import save_clip

CATS = "a lighthouse at dusk\ntwo cats\n"
CONFIRM = ("--confirm", "prompts", "--confirm-prompts", "cats.txt")
QUICK = ("--num-prompts", "2", "--front", "0.9")


def test_similarity_decides_where_no_verifier_does(sanac: Sanac, stranger: Path) -> None:
    Path("cats.txt").write_text(CATS)
    refused = sanac("schedule", stranger, "--budget", "0.9", *QUICK, "--confirm", "shapes")
    assert (refused.code, "--confirm prompts --confirm-prompts FILE" in refused.err) == (2, True)
    ran = sanac("schedule", stranger, "--max-loss", "0.9", *QUICK, *CONFIRM)
    assert ran.code == 0, ran.err
    assert "scores: your prompts, similarity to the whole model's images (MS-SSIM)" in ran.out
    assert "unseen" not in ran.out
    (made,) = Path("sanac-out").glob("schedule-*")
    assert open_model(locate(str(made))).schedule is not None
    found = json.loads((made / "measurements" / "schedule.json").read_text())
    assert (found["confirmed"], found["prompts"]) == ("prompts", 2)
    assert found["whole"]["score"]["value"] == 1
    (row,) = found["rows"]
    assert row["plain_score"]["value"] < row["score"]["value"] < 1, "half of the steps change more than one block"
    assert row["against_whole"]["value"] == pytest.approx(row["score"]["value"] - 1)
    again = sanac("schedule", stranger, "--max-loss", "0.9", *QUICK, *CONFIRM, "--json")
    assert again.json["status"] == "cached"
    Path("cats.txt").write_text(CATS + "three dogs\n")
    other = sanac("schedule", stranger, "--max-loss", "0.9", *QUICK, *CONFIRM, "--dry-run")
    assert "to be computed first" in other.out, "other prompts are another front"
    lost = sanac("schedule", stranger, "--max-loss", "0", *QUICK, *CONFIRM)
    assert (lost.code, "no schedule of the front loses at most 0" in lost.err) == (5, True)


def test_a_verifier_decides(sanac: Sanac, stranger: Path, tmp_path: Path) -> None:
    Path("cats.txt").write_text(CATS)
    (tmp_path / "clip").mkdir()
    save_clip(tmp_path / "clip")
    words = ("--images", "48", "--verifier", "clip:clip")
    ran = sanac("schedule", stranger, "--budget", "0.9", *QUICK, *CONFIRM, *words, "--json")
    assert ran.code == 0, ran.err
    assert 0 < ran.json["front"]["whole"]["score"]["value"] < 1
    found = json.loads((Path(ran.json["out"]) / "measurements" / "schedule.json").read_text())
    assert found["judge"].startswith("clip clip@"), "the judge and its digest, no path"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--confirm", "prompts"), 2, "--confirm prompts needs --confirm-prompts"),
        (("--confirm-prompts", "cats.txt"), 2, "--confirm-prompts only applies with --confirm prompts"),
        (("--confirm", "shapes", "--verifier", "shapes"), 2, "--verifier only applies with --confirm prompts"),
        ((*CONFIRM, "--verifier", "clip:no/where"), 4, "the judge no/where is not on this machine"),
        ((*CONFIRM, "--verifier", "shapes"), 2, "can't judge 'a cat'"),
        (CONFIRM, 3, "line 2 repeats line 1: 'a cat'"),
    ],
)
def test_what_can_not_be_decided_ends_before_anything_is_measured(
    sanac: Sanac, words: tuple[str, ...], code: int, said: str
) -> None:
    Path("cats.txt").write_text("a cat\na cat\n" if code == 3 else "a cat\n")
    ran = sanac("schedule", "sanac:tiny", "--budget", "0.5", *words)
    assert ran.code == code, ran.err
    assert said in ran.err
    assert not Path("sanac-out").exists()


def test_a_loss_of_cosines_is_no_share(sanac: Sanac) -> None:
    Path("cats.txt").write_text("a cat\n")
    ran = sanac("schedule", "sanac:tiny", "--max-loss", "0.1", *CONFIRM, "--verifier", "clip:clip")
    assert ran.code == 2
    assert "--max-loss is a share of a score from 0 to 1" in ran.err
