"""`sanac prune --keep`: what is printed, recorded, cached and refused."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import Sanac


def test_as_a_user_types_it(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    first = sanac("prune", pipeline, "--keep", "0-1,5")
    assert first.code == 0
    assert "plan: 6 -> 3 blocks: keep 0-1, 5; num_layers = 3" in first.out
    assert "disk in" in first.err
    [out] = (tmp_path / "sanac-out").glob("prune-*")
    assert f'SanaPipeline.from_pretrained("{out.relative_to(tmp_path)}")' in first.out
    again = sanac("prune", "--keep", "0-1,5", "--json")
    assert (again.code, again.json["status"]) == (0, "cached")
    assert again.json["out"] == str(out.relative_to(tmp_path))
    assert out.name == f"prune-{again.json['key'][:8]}"
    assert json.loads((tmp_path / "sanac-out" / "workspace.json").read_text()) == {
        "schema": 1,
        "source": str(pipeline),
        "head": out.name,
    }


def test_an_artifact_of_the_workspace_does_not_become_the_source(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    first = sanac("prune", pipeline, "--keep", "0-4", "--json").json["out"]
    second = sanac("prune", first, "--keep", "0-2", "--json").json["out"]
    recorded = json.loads((tmp_path / "sanac-out" / "workspace.json").read_text())
    assert (recorded["source"], recorded["head"]) == (str(pipeline), Path(second).name)


def test_dry_run_prints_the_plan_that_the_real_run_executes(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    dry = sanac("prune", pipeline, "--keep", "1,3", "--dry-run", "--json").json
    assert list(tmp_path.iterdir()) == []
    real = sanac("prune", pipeline, "--keep", "1,3", "--json").json
    assert (dry["plan"], dry["key"], dry["out"]) == (real["plan"], real["key"], real["out"])
    written = sum(path.stat().st_size for path in Path(real["out"]).rglob("*") if path.is_file())
    assert dry["needs"]["disk"] >= written
    assert "would write" in sanac("prune", pipeline, "--keep", "1,2", "--dry-run").out


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("", ["not a text"]),
        ("a,1-,-1", ["'a' is not", "'1-' is not", "'-1' is not"]),
        ("0-6,9", ["'0-6' goes beyond the last block, 5", "'9' goes beyond"]),
        ("3-1", ["runs backwards"]),
        ("0-3,x,9-1,2", ["'x' is not", "'9-1' runs backwards", "block 2 is named more than once"]),
        ("0-3,2,9,7-8", ["'9' goes beyond", "'7-8' goes beyond", "block 2 is named more than once"]),
        ("0-99999,0-99999", ["'0-99999' goes beyond", "block 0-99999 is named more than once"]),
        ("0-3,2,1", ["block 1, 2 is named more than once"]),
        ("1.5", ["not a block"]),
        ("\u0661", ["not a block"]),
        ("9999999999", ["not a block"]),
    ],
)
def test_bad_keep_lists_say_everything_at_once(keep: str, words: list[str], pipeline: Path, sanac: Sanac) -> None:
    ran = sanac("prune", pipeline, "--keep", keep, "--json")
    assert ran.code == 2
    said = "; ".join(ran.json["error"]["problems"])
    assert all(word in said for word in words), said


def test_order_and_spaces_do_not_matter(pipeline: Path, sanac: Sanac) -> None:
    keys = {sanac("prune", pipeline, "--keep", k, "--dry-run", "--json").json["key"] for k in ("0-1,4", " 4, 0 - 1 ")}
    assert len(keys) == 1


def test_another_artifact_in_the_way(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    assert sanac("prune", pipeline, "--keep", "0", "--out", "x").code == 0
    refused = sanac("prune", pipeline, "--keep", "1", "--out", "x")
    assert refused.code == 2
    assert "--force" in refused.err
    assert sanac("prune", pipeline, "--keep", "1", "--out", "x", "--force").code == 0
    assert json.loads((tmp_path / "x" / "transformer" / "config.json").read_text())["num_layers"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sanac-out", "x"]


def test_no_model_no_cache(sanac: Sanac, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = sanac("prune", "--keep", "0")
    assert ran.code == 4
    assert "hf download Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers" in ran.err
    assert "no MODEL was given" in ran.err
    assert "is the default, as sanac-out records no source" in ran.err
    monkeypatch.setenv("SANAC_MODEL", str(tmp_path / "nowhere"))
    assert "the model in $SANAC_MODEL" in sanac("prune", "--keep", "0").err


def test_too_little_disk_exits_4_at_once(pipeline: Path, sanac: Sanac, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    ran = sanac("prune", pipeline, "--keep", "0", "--out", "x", "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (4, "MissingResource")
    assert not os.path.lexists("x")
    assert not os.path.lexists("x.partial")


def test_quiet_says_nothing(pipeline: Path, sanac: Sanac) -> None:
    ran = sanac("prune", pipeline, "--keep", "0", "--json", "-q")
    assert ran.err == ""
    assert ran.json["status"] == "ok"


def test_link_warns(pipeline: Path, sanac: Sanac) -> None:
    assert "warning: --link" in sanac("prune", pipeline, "--keep", "0", "--link").err


def test_a_shard_size_that_is_none(pipeline: Path, sanac: Sanac) -> None:
    ran = sanac("prune", pipeline, "--keep", "0", "--shard-size", "big")
    assert ran.code == 2
    assert "--shard-size is 'big', not a size such as" in ran.err
