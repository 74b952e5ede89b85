"""sanac.open and the verbs as methods: the same artifacts and the same cache as the command line."""

import inspect
from pathlib import Path

import pytest

import sanac
from sanac.api import Report, SanaModel
from sanac.core.errors import CheckFailed, UsageError
from tests.conftest import Sanac


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SanaModel:
    monkeypatch.chdir(tmp_path)
    return sanac.open("sanac:tiny")


def test_an_artifact_is_the_command_lines(model: SanaModel, sanac: Sanac) -> None:
    small = model.prune(keep="0-5", transformer_only=True)
    assert (small.blocks, small.cached, small.outcome.status) == (6, False, "ok")
    ran = sanac("prune", "sanac:tiny", "--keep", "0-5", "--transformer-only", "--json")
    assert (ran.code, ran.json["status"], ran.json["out"]) == (0, "cached", small.path)
    assert model.prune(keep="0-5", transformer_only=True).cached, "and the other way round"
    deeper = small.grow(target_blocks=8, seed=3)
    assert (deeper.blocks, deeper.opened.manifest.stage) == (8, "grow")
    assert sanac("grow", small.path, "--target-blocks", "8", "--seed", "3", "--json").json["status"] == "cached"


def test_an_error_names_every_mistake(model: SanaModel) -> None:
    with pytest.raises(UsageError) as caught:
        model.prune(target_blok=6, guidance=500, inputs="foo")
    said = " ".join(caught.value.problems)
    assert all(word in said for word in ("did you mean 'target_blocks'", "guidance is 500: at most 100", "inputs is"))
    with pytest.raises(UsageError, match="contradict"):
        model.prune(keep="0", target_blocks=3)
    with pytest.raises(UsageError, match="out is 3, not a path"):
        model.prune(keep="0", out=3)
    with pytest.raises(TypeError):
        model.prune(6)
    assert not Path("sanac-out").exists()


def test_values_are_those_of_python(model: SanaModel, tmp_path: Path) -> None:
    how = {"scheme": "int8-wo", "out": tmp_path / "q", "dry_run": True}
    report = model.quantize(component=["transformer"], skip="*.ff.*", **how)
    assert isinstance(report, Report)
    assert report.to_json()["dry_run"]
    single = model.quantize(component="transformer", skip=("*.ff.*",), shard_size=5 * 10**9, **how)
    assert single.to_json()["key"] == report.to_json()["key"]


def test_reports_have_checks(model: SanaModel) -> None:
    small = model.prune(keep="0-11", transformer_only=True)
    report = small.verify(against=model, backend="torch", pictures=0)
    assert (report.passed, bool(report.checks), report.status) == (True, True, "ok")
    assert report.to_json()["reference"] == "sanac:tiny"
    assert "verify: ok" in str(report)
    again = small.verify(against=model, backend="torch", pictures=0)
    assert (again.status, [one.name for one in again.checks]) == ("cached", [one.name for one in report.checks])
    weights = Path(small.path) / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.touch()
    assert small.verify(against=model, backend="torch", pictures=0).status == "ok", "a file that was written since"
    cut = model.prune(keep="0-10", transformer_only=True)
    failed = cut.verify(against=model.prune(keep="1-11", transformer_only=True), backend="torch", pictures=0)
    assert not failed.passed
    assert any(not one.passed for one in failed.checks)


def test_a_broken_export_is_an_error(model: SanaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from sanac.core.context import Outcome
    from sanac.verbs import VERBS

    monkeypatch.setattr("sanac.api.Outcome", Outcome)
    monkeypatch.setattr(type(VERBS["export"]), "call", lambda *_: Outcome("failed", out=Path("x")))
    with pytest.raises(CheckFailed, match="same function"):
        model.export()


def test_help_shows_the_settings() -> None:
    text = SanaModel.prune.__doc__
    assert "target_blocks: Number of blocks to keep" in text
    assert "at least 1" in text
    signature = inspect.signature(SanaModel.prune)
    assert signature.parameters["select"].default is None
    assert signature.parameters["seed"].default == 0
    assert inspect.signature(SanaModel.generate).parameters["prompts"].kind == inspect.Parameter.VAR_POSITIONAL


def test_images_of_prompts(model: SanaModel, tmp_path: Path) -> None:
    report = model.generate("a red circle", "two blue squares", steps=2, out=tmp_path / "images", seed=5)
    files = [Path(path) for path in report.to_json()["pictures"]]
    assert len([one for one in files if one.suffix == ".png" and one.is_file()]) >= 2


def test_a_name_that_is_wrong_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sanac.SanacError):
        sanac.open("nobody/nothing")


@pytest.mark.slow
def test_the_block_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/python.md has it, with the defaults: minutes; then again, in seconds."""
    import time

    monkeypatch.chdir(tmp_path)
    seconds = []
    for _ in range(2):
        start = time.monotonic()
        model = sanac.open("sanac:tiny")
        small = model.prune(target_blocks=6, compensate=True).finetune(steps=100, data_free=True)
        small = small.quantize(scheme="int8").export(trt=True, sm=["rtx4090"])
        report = small.verify(against=model)
        seconds.append(time.monotonic() - start)
        assert report.checks
        assert report.to_json()["reference"] == "sanac:tiny"
    assert small.cached
    assert seconds[1] < 60
    assert small.pipeline()("a red circle").images
