"""The tutorial, run from top to bottom as a reader would; its output is the page's but for numbers."""

import re
import tomllib
from pathlib import Path

import pytest

from scripts.tutorial import PAGE, ROOT, agreed, blocks, run_page

TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    for _, ran in run_page(TEXT, tmp_path):
        for one in ran:
            assert one.exit == one.expected_exit, "\n".join([one.command, *one.output])
            try:
                agreed(one.shown, one.output)
            except ValueError as error:
                pytest.fail("\n".join([one.command, *one.output, str(error)]))


def test_the_extras_that_it_installs_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"\.\[([\w,-]+)\]", TEXT)
    assert named
    assert {extra for group in named for extra in group.split(",")} <= set(extras)


def test_each_block_is_run_or_is_a_file_or_says_that_it_is_not_run() -> None:
    for block in blocks(TEXT):
        assert block.kind in {"console", "toml", "python"}
        assert block.about in {"", "not run"} or re.fullmatch(r"exit \d+", block.about)
        first = block.text.partition("\n")[0]
        assert re.fullmatch(r"\$ .+" if block.kind == "console" else r"# [\w-]+\.(toml|py)", first)
    assert len(re.findall(r"^## \d+\. ", TEXT, re.MULTILINE)) == 12


def test_what_differs_from_run_to_run_does_not_count_and_what_is_left_out_is_marked() -> None:
    output = ["needs 6.45 MB of disk", "training: 20% of 40 steps, 3 s left", "score  0.917  0.8", "wrote small"]
    shown = ["needs 7 kB of disk", "score 0.9 0.85", "wrote small"]
    assert agreed(shown, output) == [output[0], *output[2:]]
    assert agreed(["...", "wrote small"], output) == ["...", "wrote small"]
    with pytest.raises(ValueError, match="wrote large"):
        agreed(["...", "wrote large"], output)
    with pytest.raises(ValueError, match="wrote small"):
        agreed(shown[:-1], output)
    with pytest.raises(ValueError, match="score"):
        agreed([shown[0], "wrote small"], output)
