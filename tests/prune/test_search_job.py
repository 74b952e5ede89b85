"""What search and repair leave in the workspace: found again, never trusted blindly, never mixed up."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel
from safetensors.torch import load_file, save_file

from sanac.core.artifact.model import open_model
from sanac.core.artifact.staging import StagingArea
from sanac.core.checkpoint.locate import locate
from sanac.core.checkpoint.lora import Addition
from sanac.core.errors import UsageError
from sanac.core.family.architecture import block_name
from sanac.core.file_copy import digest_file
from sanac.core.progress import NULL_REPORTER
from sanac.core.safetensors_header import read_header
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.nn.blocks.block import POINT
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates, SweepBatch
from sanac.prune import search_job
from sanac.prune.keep_list import plan_keep
from sanac.prune.selection import BlockSelection
from tests.conftest import Ran, Sanac

FEW = ("--num-prompts", "8", "--timesteps", "3")
MEND = ("--keep", "0,2,4", "--compensate", *FEW)


def velocity_error(ran: Ran) -> float:
    return json.loads((Path(ran.json["out"]) / "measurements" / "compensate.json").read_text())["velocity_error"][
        "repaired"
    ]


def test_a_dry_run_computes_and_writes_nothing(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    for how in (("--target-blocks", "3"), ("--target-blocks", "3", "--select", "search")):
        ran = sanac("prune", pipeline, *how, *FEW, "--dry-run")
        assert ran.code == 0, ran.err
        assert "to be computed first" in ran.out
    assert sanac("prune", pipeline, *MEND, "--dry-run").code == 0
    assert not (tmp_path / "sanac-out").exists()


def test_a_stopped_search_asks_again_only_what_it_has_not_seen(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, wanted = open_model(locate(str(pipeline))), CalibrationSettings(num_prompts=4, timesteps=3)
    arguments = (model, BlockSelection("search", 3), wanted, tmp_path, NULL_REPORTER)
    asked: list[int] = []
    errors = CalibrationStates.errors

    def counted(self: CalibrationStates, choices: list[tuple[int, ...]], together: int | None = None) -> object:
        if len(asked) == 2:
            asked.append(0)
            raise KeyboardInterrupt
        asked.append(len(choices))
        return errors(self, choices, together)

    monkeypatch.setattr(CalibrationStates, "errors", counted)
    with pytest.raises(KeyboardInterrupt):
        search_job.find_blocks(*arguments)
    stopped = search_job.find_blocks(*arguments)
    seen = sum(asked)
    monkeypatch.setattr(CalibrationStates, "errors", errors)
    fresh = search_job.find_blocks(model, BlockSelection("search", 3), wanted, tmp_path / "other", NULL_REPORTER)
    assert stopped == fresh
    assert seen == len(json.loads(next(tmp_path.glob("search-*/seen.json")).read_text())["seen"]) + 1


def test_a_search_in_little_memory_finds_the_same(pipeline: Path, tmp_path: Path) -> None:
    """Where not even one prompt's states under all choices fit, fewer choices are looked at together."""
    model, wanted = open_model(locate(str(pipeline))), CalibrationSettings(num_prompts=4, timesteps=3)
    state = calibration(model, wanted, every=1).state_bytes
    share = SweepBatch.of(10 * state, state, 4 * 6)
    assert (share.prompts, share.choices, share.sweeps(3, 6)) == (1, 5, 6)
    fitted = calibration(model, wanted, every=1).sample()
    choices = [tuple(index for index in range(6) if index != left) for left in (4, 1, 5, 0, 3, 2)]
    with torch.no_grad():
        one, other = (
            search_job._SubsetEvaluator(fitted, how, tmp_path / f"{how.choices}.json", "")(choices)
            for how in (share, SweepBatch.of(10**9, state, 4 * 6))
        )
    assert one == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("damage", ["torn report", "torn changes", "other changes", "no report"])
def test_a_damaged_repair_is_fitted_again(sanac: Sanac, pipeline: Path, tmp_path: Path, damage: str) -> None:
    whole = sanac("prune", pipeline, *MEND, "--out", tmp_path / "a", "--json")
    assert whole.code == 0, whole.err
    folder = next((tmp_path / "sanac-out").glob("repair-*"))
    changes, report = folder / "changes.safetensors", folder / "repair.json"
    if damage == "torn report":
        report.write_text("{")
    elif damage == "torn changes":
        changes.write_bytes(changes.read_bytes()[:100])
    elif damage == "other changes":
        save_file({name: torch.full_like(t, torch.nan) for name, t in load_file(changes).items()}, changes)
    else:
        report.unlink()
    again = sanac("prune", pipeline, *MEND, "--out", tmp_path / "b", "--json")
    assert again.code == 0, again.err
    one, other = (
        load_file(tmp_path / name / "transformer" / "diffusion_pytorch_model.safetensors") for name in ("a", "b")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_fewer_prompts_by_the_memory_limit_are_another_repair(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    plenty = sanac("prune", pipeline, *MEND, "--out", tmp_path / "a", "--json")
    tight = sanac("prune", pipeline, *MEND, "--memory-limit", "9MB", "--out", tmp_path / "b", "--json")
    assert "of 8 prompts fit" in tight.err
    assert tight.json["key"] != plenty.json["key"]
    assert velocity_error(tight) != velocity_error(plenty)


def test_another_layout_is_the_same_repair(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    sanac("prune", pipeline, *MEND, "--out", tmp_path / "a")
    ran = sanac("prune", pipeline, *MEND, "--transformer-only", "--out", tmp_path / "b")
    assert ran.code == 0, ran.err
    assert len(list((tmp_path / "sanac-out").glob("repair-*"))) == 1


def test_a_stopped_writer_does_not_mix_two_repairs(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, name = open_model(locate(str(pipeline))), block_name(2, POINT)
    plain = plan_keep(model, "0,2", WriteOptions())
    jobs = []
    for number in (1.0, 2.0):
        file = tmp_path / f"{number}.safetensors"
        save_file({name: torch.full(model.weights.tensors[name].shape, number)}, file)
        added = {name: Addition(read_header(file).tensors[name])}
        jobs.append(dataclasses.replace(plain, additions=added, overrides_digest=digest_file(file)))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(StagingArea, "seal", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        write_partial(jobs[0], tmp_path / "out", NULL_REPORTER)
    with pytest.raises(UsageError, match="other settings"):
        write_partial(jobs[1], tmp_path / "out", NULL_REPORTER)
    fresh = dataclasses.replace(jobs[1], options=WriteOptions(fresh=True))
    write_partial(fresh, tmp_path / "out", NULL_REPORTER)
    written = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    source = load_file(pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(written[block_name(1, POINT)], source[name] + 2)


def test_in_half_precision_what_is_written_is_what_was_judged(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    half = Path(shutil.copytree(pipeline, tmp_path / "half"))
    SanaTransformer2DModel.from_pretrained(pipeline, subfolder="transformer").bfloat16().save_pretrained(
        half / "transformer"
    )
    ran = sanac("prune", half, *MEND, "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    before = load_file(half / "transformer" / "diffusion_pytorch_model.safetensors")
    after = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert after[block_name(0, POINT)].dtype == torch.bfloat16
    model = open_model(locate(str(half)))
    changes, kept = {}, (0, 2, 4)
    for place, source in enumerate(kept):
        old, new = before[block_name(source, POINT)].float(), after[block_name(place, POINT)].float()
        changes[block_name(source, POINT)] = new - old
    with torch.no_grad():
        judged = calibration(model, CalibrationSettings(num_prompts=8, timesteps=3), every=1).states([1, 1])[-1]
        written = float(judged.changed(changes).errors([kept])[kept].mean())
    assert written == pytest.approx(velocity_error(ran), rel=1e-6)


def test_analyze_keeps_its_hands_off_what_is_not_its_own(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    home = tmp_path / "mine"
    home.mkdir()
    (home / "prompts-mine.txt").write_text("a red circle\na blue square\n")
    ran = sanac("analyze", pipeline, "--prompts", home / "prompts-mine.txt", "--timesteps", "2", "--out", home)
    assert ran.code == 0, ran.err
    assert (home / "prompts-mine.txt").exists()
    other = sanac("analyze", pipeline, *FEW, "--out", home)
    assert other.code == 2
    assert "holds other scores" in other.err


@pytest.mark.parametrize(
    ("part", "entry", "value", "words"),
    [
        ("transformer/config.json", "guidance_embeds", True, "guidance"),
        ("scheduler/scheduler_config.json", "algorithm_type", "sde-dpmsolver++", "stochastic schedulers"),
        ("scheduler/scheduler_config.json", "algorithm_type", "foo", "foo"),
    ],
)
def test_models_that_would_be_computed_as_another_are_refused(
    sanac: Sanac, pipeline: Path, tmp_path: Path, part: str, entry: str, value: object, words: str
) -> None:
    copy = Path(shutil.copytree(pipeline, tmp_path / "copy"))
    config = json.loads((copy / part).read_text())
    (copy / part).write_text(json.dumps(config | {entry: value}))
    ran = sanac("analyze", copy, *FEW)
    assert ran.code in {2, 3}, ran.err
    assert words in ran.err


def test_keep_says_what_it_ignores(sanac: Sanac, pipeline: Path) -> None:
    ran = sanac("prune", pipeline, "--keep", "0-2", "--protect-first", "2", "--dry-run")
    assert "have no effect" in ran.err


def test_a_repair_that_takes_hours_is_asked_for_and_one_that_was_made_is_not(
    sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanac.nn.calibration.cost.PATIENCE", 0.0)
    ran = sanac("prune", pipeline, *MEND, "--out", "out")
    assert ran.code == 4
    assert "--yes" in ran.err
    assert not Path("out").exists()
    assert sanac("prune", pipeline, *MEND, "--out", "out", "--yes").code == 0
    again = sanac("prune", pipeline, *MEND, "--out", "out", "--json")
    assert again.code == 0, again.err
    assert again.json["status"] == "cached"
    assert "repairing" not in again.err


def test_the_default_searches_where_that_is_quick(
    sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("--target-blocks", "4", "--num-prompts", "5", "--timesteps", "2")
    ran = sanac("prune", pipeline, *few, "--json")
    assert ran.code == 0, ran.err
    assert "searching for blocks and repairing, about" in ran.err
    assert "velocity_error" in ran.json
    named = sanac("prune", pipeline, *few, "--select", "search", "--compensate", "--json")
    assert (named.json["status"], named.json["key"]) == ("cached", ran.json["key"])
    monkeypatch.setattr("sanac.prune.default_selection.QUICK", 0.0)
    assert sanac("prune", pipeline, *few, "--json").json["status"] == "cached", "what was found once is kept"
    other = sanac("prune", pipeline, "--target-blocks", "3", *few[2:], "--out", "ranked", "--json")
    assert "--select search --compensate would take about" in other.err
    assert "velocity_error" not in other.json
    too_few = sanac("prune", pipeline, "--target-blocks", "3", "--num-prompts", "1", "--timesteps", "2")
    assert too_few.code == 0, too_few.err
