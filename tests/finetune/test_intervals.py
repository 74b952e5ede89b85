"""Interval training: which blocks stand for which, and that a trained block does the work of those dropped."""

from pathlib import Path

import pytest
import torch

from sanac.core.errors import UsageError
from sanac.finetune.intervals import Interval, intervals_of
from tests.conftest import Sanac

pytestmark = pytest.mark.usefixtures("one_thread")


def test_an_interval_ends_before_the_next_kept_block() -> None:
    assert intervals_of([0, 1, 4, 5], 8) == [Interval(1, 1, 3), Interval(3, 5, 7)]
    assert intervals_of([2], 4) == [Interval(0, 2, 3)]
    with pytest.raises(UsageError, match="no block"):
        intervals_of([0, 1, 2], 3)


def test_only_blocks_before_gaps_change_and_the_error_falls(sanac: Sanac, pipeline: Path) -> None:
    assert sanac("prune", pipeline, "--keep", "0,1,3", "--out", "small").code == 0
    options = ("--intervals", "--steps", "30", "--batch", "4", "--samples", "4", "--learning-rate", "0.003")
    ran = sanac("finetune", "small", *options, "--out", "out", "--json")
    assert ran.code == 0, ran.err
    assert "block 1 for the teacher's blocks 1 to 2" in ran.err
    from tests.cli.test_finetune import weights

    before, after = weights("small"), weights("out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    blocks = {name.split(".")[1] for name in changed}
    assert blocks == {"1", "2"}  # block 3 of six was followed by dropped ones as well
    losses = [line.partition('"loss":')[2] for line in Path("out/measurements/finetune.jsonl").read_text().splitlines()]
    first, last = (float(text.partition(",")[0]) for text in (losses[0], losses[-1]))
    assert last < 0.8 * first
    assert sanac("finetune", "small", *options, "--out", "out", "--json").json["status"] == "cached"
    for wrong in (("--lora", "4"), ("--loss", "flow"), ("--freeze-first", "1")):
        assert sanac("finetune", "small", *options, *wrong, "--out", "x").code == 2
