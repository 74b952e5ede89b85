"""`sanac grow`: what is printed, recorded, cached, warned of and refused."""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import Ran, Sanac


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sanac.tiny.build import transformer

    folder = tmp_path_factory.mktemp("models") / "plain"
    torch.manual_seed(0)
    transformer(6, qk_norm=False).save_pretrained(folder)
    return folder


def said(ran: Ran, *words: str) -> bool:
    return ran.code == 0 and all(word in ran.err for word in words)


def test_as_a_user_types_it(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    first = sanac("grow", pipeline, "--target-blocks", 12)
    assert said(first, "exactly what the first 4 of its source's 6 blocks do", "--preserve 6 keeps them")
    assert "plan: 6 -> 12 blocks: keep 0-3, new 4-11 (partial, seed 0); num_layers = 12" in first.out
    [out] = (tmp_path / "sanac-out").glob("grow-*")
    assert f'SanaPipeline.from_pretrained("{out.relative_to(tmp_path)}")' in first.out
    again = sanac("grow", "--target-blocks", 12, "--json", "--seed", 0)
    assert (again.code, again.json["status"], again.json["out"]) == (0, "cached", str(out.relative_to(tmp_path)))
    workspace = json.loads((tmp_path / "sanac-out" / "workspace.json").read_text())
    assert (workspace["source"], workspace["head"]) == (str(pipeline), out.name)


def test_dry_run_prints_the_plan_that_the_real_run_executes(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    arguments = ("grow", pipeline, "--target-blocks", 8, "--seed", 7, "--json")
    dry = sanac(*arguments, "--dry-run").json
    assert list(tmp_path.iterdir()) == []
    real = sanac(*arguments).json
    assert (dry["plan"], dry["key"], dry["out"]) == (real["plan"], real["key"], real["out"])
    assert dry["plan"]["blocks"][3:5] == [{"keep": 3}, {"new": 4, "rule": "partial", "seed": 7}]


def test_same_seed_same_bytes_other_seed_other_bytes(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    weights = set()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert sanac("grow", pipeline, "--target-blocks", 8, "--seed", seed, "--out", name).code == 0
        weights.add((tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes())
    assert len(weights) == 2
    assert (tmp_path / "a" / "sanac.json").read_bytes() == (tmp_path / "b" / "sanac.json").read_bytes()


def test_inspect_says_where_each_block_came_from(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("grow", pipeline, "--target-blocks", 12, "--out", "a")
    assert "in all" not in sanac("inspect", "a").out
    sanac("prune", "a", "--keep", "0-3,5,8-10", "--out", "b")
    shown = sanac("inspect", "b", "--scan")
    assert "in all: 6 -> 8 blocks: keep 0-3, new 5, 8-10 (partial, seed 0); num_layers = 8" in shown.out
    assert "every digest is right" in shown.out
    origins = sanac("inspect", "b", "--json").json["origins"]
    assert origins == [0, 1, 2, 3, *["new (partial, seed 0)"] * 4]
    sanac("grow", "b", "--target-blocks", 10, "--preserve", 5, "--seed", 4, "--out", "c")
    text = "6 -> 10 blocks: keep 0-3, new 5 (partial, seed 0), new 5-9 (partial, seed 4); num_layers = 10"
    assert f"in all: {text}" in sanac("inspect", "c").out
    assert text in (tmp_path / "c" / "README.md").read_text()


def test_copies_are_told_apart_from_ranges(pipeline: Path, sanac: Sanac) -> None:
    dry = ("grow", pipeline, "--dry-run", "--target-blocks")
    assert "keep 0-5 twice each; num_layers = 12" in sanac(*dry, 12, "--init", "replicate").out
    assert "keep 0-5, 0-5; num_layers = 12" in sanac(*dry, 12, "--init", "cyclic").out
    assert "keep 0 twice, 1-2, 3 twice, 4-5" in sanac(*dry, 8, "--init", "replicate").out


def test_what_changes_the_function_is_said(pipeline: Path, plain: Path, sanac: Sanac) -> None:
    dry = ("--target-blocks", 8, "--dry-run")
    assert said(sanac("grow", pipeline, *dry, "--preserve", 6), "computes exactly what its source does")
    assert said(sanac("grow", pipeline, *dry, "--init", "cyclic"), "--init cyclic changes the model's output")
    added = sanac("grow", plain, *dry, "--qk-norm")
    assert said(added, "warning: --qk-norm changes the model's output", "the last 2 blocks are dropped")
    assert "exactly" not in added.err
    assert "qk_norm = rms_norm_across_heads" in added.out


def test_settings_without_effect_are_warned_of(pipeline: Path, sanac: Sanac) -> None:
    dry = ("grow", pipeline, "--target-blocks", 8, "--dry-run", "-q")
    assert said(sanac(*dry, "--qk-norm"), "warning: --qk-norm has no effect", "already has QK norm")
    assert said(sanac(*dry, "--init", "replicate", "--seed", 3), "warning: --seed has no effect")
    assert said(sanac(*dry, "--device", "cpu"), "warning: --device has no effect")
    assert sanac(*dry, "--seed", 3).err == ""


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (["6"], ["--target-blocks 6 is not more than the model's 6 blocks"]),
        (["6", "--preserve", "7"], ["--target-blocks 6", "--preserve 7 is not between 1 and 6"]),
        (["8", "--preserve", "4", "--init", "cyclic"], ["--preserve only applies to --init partial"]),
    ],
)
def test_bad_requests_exit_2_with_all_problems(
    arguments: list[str], problems: list[str], pipeline: Path, sanac: Sanac, tmp_path: Path
) -> None:
    ran = sanac("grow", pipeline, "--target-blocks", *arguments, "--json")
    assert ran.code == 2
    error = ran.json["error"]
    assert error["hint"] == "for example --target-blocks 12 --init partial --preserve 4"
    assert len(error["problems"]) == len(problems)
    assert all(word in problem for word, problem in zip(problems, error["problems"], strict=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--target-blocks", "many"],
        ["--target-blocks", "7.5"],
        ["--target-blocks", "-3", "--preserve", "-1"],
        ["--target-blocks", "8", "--init", "magic"],
        ["--target-blocks", "8", "--seed", "-1"],
        ["--target-blocks", "8", "--preserve", "x"],
    ],
)
def test_words_that_are_no_numbers(arguments: list[str], pipeline: Path, sanac: Sanac) -> None:
    ran = sanac("grow", pipeline, *arguments, "--json")
    assert (ran.code, ran.json["error"]["kind"]) == (2, "UsageError")
    assert "sanac grow --help" in ran.json["error"]["hint"]


def test_help_names_what_is_exact(sanac: Sanac) -> None:
    text = " ".join(sanac("grow", "--help").out.split())
    assert "exactly what MODEL computes with only its first K blocks" in text
    assert "the last two are dropped unless --preserve" in text


def test_a_source_that_is_none(sanac: Sanac, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"")
    assert sanac("grow", "x.safetensors", "--target-blocks", 9).code == 3
    assert sanac("grow", "nowhere", "--target-blocks", 9).code == 2
    assert sanac("grow", "--target-blocks", 90).code == 4


def test_a_forged_origin_is_bad_input(pipeline: Path, sanac: Sanac, tmp_path: Path) -> None:
    sanac("grow", pipeline, "--target-blocks", 8, "--out", "a")
    path = tmp_path / "a" / "sanac.json"
    manifest = json.loads(path.read_text())
    manifest["lineage"][1]["plan"]["blocks"][7]["rule"] = "magic"
    path.write_text(json.dumps(manifest))
    for verb in (("inspect", "a"), ("grow", "a", "--target-blocks", 9), ("prune", "a", "--keep", "0")):
        ran = sanac(*verb, "--json")
        assert ran.code == 3
        assert "no rule 'magic'" in ran.json["error"]["why"]
