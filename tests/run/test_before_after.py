"""The sheet at a recipe's end: whose pictures, under which sizes and scores; made once, and left out with a reason."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sanac.core.artifact.measurements import BEFORE_AFTER
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.run.before_after import LONGEST, reason_for_none
from sanac.run.recipe_checks import read_recipe
from sanac.run.stage_graph import plan_of
from tests.conftest import Sanac
from tests.run import small
from tests.run.small import write

SMALL, OPEN = (text.replace("sheet = false\n", "") for text in (small.SMALL, small.OPEN))


def columns_of(sheet: Path) -> int:
    """Models on a sheet, from its width."""
    with Image.open(sheet) as image:
        return round((image.width - 220) / (256 + 12))


def test_a_recipe_ends_with_a_sheet_that_is_made_once(sanac: Sanac, tmp_path: Path) -> None:
    ran = sanac("run", write(SMALL), "-q")
    assert ran.code == 0, ran.err
    (line,) = [line for line in ran.out.splitlines() if line.startswith("before and after, side by side: ")]
    sheet = Path(line.partition(": ")[2])
    assert not sheet.is_absolute(), "as one would type it here"
    assert sheet.name == BEFORE_AFTER
    assert sheet.parent.parent.name.startswith("quantize-"), "beside the other measurements of the chosen artifact"
    assert columns_of(sheet) == 2
    assert not [path for path in tmp_path.rglob("sheet.png") if path.parent.name.startswith("evaluate")]
    (home,) = (tmp_path / "sanac-out").glob("compare-*")
    pictures = sorted(home.glob("*/*.png"))
    assert len(pictures) == 8, "four prompts, two models"
    with Image.open(pictures[0]) as image:
        assert '"steps": 2' in image.text["settings"], "sampled as they are evaluated"

    stamps = [path.stat().st_mtime_ns for path in (sheet, *pictures)]
    again = sanac("run", "r.toml", "--json", "-q")
    assert (again.json["status"], again.json["sheet"]) == ("cached", str(sheet.absolute()))
    assert [path.stat().st_mtime_ns for path in (sheet, *pictures)] == stamps
    pictures[0].unlink()
    sheet.unlink()
    assert sanac("run", "r.toml", "--json", "-q").json["sheet"] == str(sheet.absolute())
    assert pictures[0].is_file(), "what is not whole is made again"
    assert sheet.is_file()

    shown = np.asarray(Image.open(sheet))
    two = sanac("run", write('sheet = "stages"\n' + SMALL), "--json", "-q")
    assert (two.json["status"], columns_of(sheet)) == ("cached", 3), "the pruned model, too"
    assert np.array_equal(np.asarray(Image.open(sheet))[100:300, :400], shown[100:300, :400]), "the same source"
    none = sanac("run", write("sheet = false\n" + SMALL), "--json", "-q")
    assert none.json["sheet"] is None


def test_of_several_variants_the_chosen_one_is_shown(sanac: Sanac) -> None:
    text = OPEN.partition("[evaluate]")[0].replace('scheme = "int8-wo"\n', "") + "[[gate]]\n"
    text += 'metric = "size/bytes"\nmax_ratio = 0.9\n[matrix]\n"prune.keep" = ["0-8", "0-1,10-11"]\n'
    text += '"quantize.scheme" = ["int8-wo"]\n'
    ran = sanac("run", write(text), "--json", "-q")
    assert ran.code == 0, ran.err
    assert Path(ran.json["sheet"]).is_relative_to(ran.json["out"])
    assert columns_of(Path(ran.json["sheet"])) == 2


def test_why_there_is_none(sanac: Sanac, tmp_path: Path, pipeline: Path) -> None:
    model = open_model(locate("sanac:tiny"))
    plan = plan_of(read_recipe(Path(write(SMALL))), "x")
    assert reason_for_none(plan, model, LONGEST) == ""
    assert "about 2 h 00 min; `sheet = true`" in reason_for_none(plan, model, 7200)
    asked = plan_of(read_recipe(Path(write("sheet = true\n" + SMALL))), "x")
    assert reason_for_none(asked, model, 7200) == ""
    alone = Path(shutil.copytree(pipeline / "transformer", tmp_path / "alone"))
    text = f'model = "{alone}"\n[prune]\nkeep = "0,5"\n'
    ran = sanac("run", write(text), "-q")
    assert ran.code == 0, ran.err
    assert "no sheet of before and after: alone is a transformer without the rest of its pipeline" in ran.out


def test_a_dry_run_counts_it(sanac: Sanac) -> None:
    asked, none = (sanac("run", write(text), "--dry-run", "--json") for text in (SMALL, "sheet = false\n" + SMALL))
    assert asked.json["seconds"] > none.json["seconds"]
    assert "with a sheet of before and after" in sanac("run", write(SMALL), "--dry-run").out


def test_the_demo_dry_run(sanac: Sanac, tmp_path: Path) -> None:
    ran = sanac("demo", "--dry-run")
    assert ran.code == 0, ran.err
    assert "prune --target-blocks 8" in ran.out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_and_its_commands(sanac: Sanac) -> None:
    ran = sanac("demo", "--json", "-q")
    assert ran.code == 0, ran.err
    assert columns_of(Path(ran.json["sheet"])) == 3
    assert ran.json["variants"][0]["score"] > 0.8
    first, second, compared = (line.split()[1:] for line in ran.json["commands"])
    for words in (first, second):
        assert sanac(*words, "--json").json["status"] == "cached", words
    assert compared[:2] == ["compare", "sanac:tiny"]
