"""`sanac reinforce` on both kinds of generator: rounds, resuming, what is written, and what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sanac.core.artifact.token_model import open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.settings import build
from sanac.reinforce import samples_job
from sanac.reinforce.gather import read_samples
from sanac.reinforce.groups import group_file
from sanac.reinforce.policy_training import policy_training
from sanac.reinforce.samples_job import requests_for
from sanac.reinforce.settings import JudgeSamplesSettings, ReinforceSettings
from tests.conftest import Sanac

QUICK = ("--num-prompts", "4", "--each", "3", "--steps", "3", "--updates", "4", "--prompts-per-step", "2")
JUDGED = (*QUICK, "--verifier", "judge:sanac:tiny", "--learning-rate", "1e-4")


@pytest.fixture(params=["flow", "tokens"])
def model(request: pytest.FixtureRequest, pipeline: Path, token_model: Path) -> Path:
    return pipeline if request.param == "flow" else token_model


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "transformer").glob("*.safetensors")))


def gathered(model: Path, out: Path, **how: object) -> Path:
    given = {"prompts": None, "num_prompts": 4, "each": 3, "steps": 3, "verifier": "judge:sanac:tiny", "out": out}
    samples_job.run(str(model), build(JudgeSamplesSettings, given | how), Context())
    return out


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("loss", ["dpo", "dgpo"])
def test_a_model_is_taught_and_written(sanac: Sanac, model: Path, loss: str) -> None:
    ran = sanac("reinforce", model, "--loss", loss, *JUDGED, "--rounds", "2", "--out", "taught", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["status"], ran.json["loss"], ran.json["rounds"]) == ("ok", loss, 2)
    before, after = weights(model), weights(Path("taught"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name].float(), value.float()) for name, value in after.items())
    assert all(before[name].dtype == value.dtype for name, value in after.items())
    assert sanac("generate", "taught", "a red circle", "--steps", "2").code == 0
    assert sanac("inspect", "taught").code == 0
    again = sanac("reinforce", model, "--loss", loss, *JUDGED, "--rounds", "2", "--out", "taught", "--json")
    assert again.json["status"] == "cached"
    other = sanac("reinforce", model, "--loss", loss, *JUDGED, "--rounds", "1", "--out", "taught")
    assert other.code == 2
    assert not list(Path().glob("*.partial"))


@pytest.mark.usefixtures("one_thread")
def test_a_stopped_run_continues_to_the_same_weights(
    sanac: Sanac, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ("reinforce", model, "--loss", "dpo", *JUDGED, "--save-every", "1")
    assert sanac(*whole, "--workspace", "one", "--out", "whole").code == 0
    from sanac.train import loop

    real, seen = loop._Run.advance, []

    def advance(run: object) -> None:
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        real(run)

    monkeypatch.setattr(loop._Run, "advance", advance)
    assert sanac(*whole, "--workspace", "two", "--out", "parts").code == 130
    assert not Path("parts").exists()
    assert sanac(*whole, "--workspace", "two", "--out", "parts").code == 0
    first, second = weights(Path("whole")), weights(Path("parts"))
    assert all(torch.equal(first[name], value) for name, value in second.items())


@pytest.mark.usefixtures("one_thread")
def test_samples_are_gathered_in_parts_and_learned_from(sanac: Sanac, model: Path, tmp_path: Path) -> None:
    whole = read_samples(ConfinedPath(gathered(model, tmp_path / "whole")))
    for part in ("2/2", "1/2"):
        gathered(model, tmp_path / "parts", part=part)
    parts = read_samples(ConfinedPath(tmp_path / "parts"))
    assert parts.identity == whole.identity
    assert all(torch.equal(a.samples, b.samples) for a, b in zip(whole.groups, parts.groups, strict=True))
    assert [len(set(one.seeds)) for one in whole.groups] == [3] * 4
    assert len({seed for one in whole.groups for seed in one.seeds}) == 12
    ran = sanac("reinforce", model, "--loss", "dpo", "--samples", tmp_path / "parts", *QUICK, "--out", "taught")
    assert ran.code == 0, ran.err
    assert "4 prompts to learn from; 0 teach nothing" in ran.err


def test_gathering_goes_on_behind_what_is_there(model: Path, tmp_path: Path) -> None:
    folder = gathered(model, tmp_path / "samples")
    kept = group_file(ConfinedPath(folder), 1).path
    before = kept.stat().st_mtime_ns
    group_file(ConfinedPath(folder), 2).path.unlink()
    with pytest.raises(InvalidInput, match="is not finished"):
        read_samples(ConfinedPath(folder))
    gathered(model, folder)
    assert len(read_samples(ConfinedPath(folder)).groups) == 4
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match="holds other samples") as raised:
        gathered(model, folder, each=4)
    assert "each" in raised.value.why


def test_rft_learns_from_what_is_accepted(sanac: Sanac, model: Path) -> None:
    ran = sanac("reinforce", model, "--loss", "rft", *JUDGED, "--accept", "0", "--out", "taught")
    assert ran.code == 0, ran.err
    ran = sanac("reinforce", model, "--loss", "rft", *JUDGED, "--accept", "1.5", "--out", "none")
    assert ran.code == 3
    assert "nothing to learn with --loss rft" in ran.err
    assert not Path("none").exists()


def test_the_judges_gradient_changes_what_is_learned(sanac: Sanac, model: Path) -> None:
    for name, options in (("plain", ()), ("guided", ("--reward", "1"))):
        assert sanac("reinforce", model, "--loss", "dpo", *JUDGED, *options, "--out", name).code == 0
    plain, guided = weights(Path("plain")), weights(Path("guided"))
    assert any(not torch.equal(plain[name], value) for name, value in guided.items())


def test_a_lora_of_a_token_generator_is_merged(sanac: Sanac, token_model: Path) -> None:
    ran = sanac("reinforce", token_model, "--loss", "dpo", *JUDGED, "--lora", "2", "--out", "taught")
    assert ran.code == 0, ran.err
    before, after = weights(token_model), weights(Path("taught"))
    assert before.keys() == after.keys()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert "showo.model.layers.0.mlp.fc1.weight" in changed
    assert all(name.endswith("weight") and ".layers." in name and "norm" not in name for name in changed)
    assert sanac("generate", "taught", "a red circle", "--steps", "2").code == 0


def test_a_lora_is_merged(sanac: Sanac, pipeline: Path) -> None:
    ran = sanac("reinforce", pipeline, "--loss", "dpo", *JUDGED, "--lora", "2", "--rounds", "2", "--out", "taught")
    assert ran.code == 0, ran.err
    before, after = weights(pipeline), weights(Path("taught"))
    assert before.keys() == after.keys()
    change = after["transformer_blocks.0.attn1.to_q.weight"] - before["transformer_blocks.0.attn1.to_q.weight"]
    assert 1 <= torch.linalg.matrix_rank(change, rtol=1e-3) <= 4
    assert torch.equal(after["caption_norm.weight"], before["caption_norm.weight"])


@pytest.mark.usefixtures("one_thread")
def test_less_memory_gives_the_same_weights(sanac: Sanac, model: Path) -> None:
    for name, options in (("whole", ()), ("parts", ("--micro-batch", "1", "--checkpointing"))):
        ran = sanac("reinforce", model, "--loss", "dpo", *JUDGED, *options, "--workspace", f"of-{name}", "--out", name)
        assert ran.code == 0, ran.err
    whole, parts, before = weights(Path("whole")), weights(Path("parts")), weights(model)
    moved = max(float((value.float() - before[name].float()).abs().max()) for name, value in whole.items())
    apart = max(float((value.float() - parts[name].float()).abs().max()) for name, value in whole.items())
    assert apart < 0.2 * moved


def test_a_lora_is_trained_on_half_the_weights(sanac: Sanac, model: Path) -> None:
    options = ("--lora", "2", "--precision", "bf16", "--checkpointing", "--micro-batch", "1")
    ran = sanac("reinforce", model, "--loss", "dpo", *JUDGED, *options, "--out", "taught")
    assert ran.code == 0, ran.err
    before, after = weights(model), weights(Path("taught"))
    assert any(not torch.equal(before[name].float(), value.float()) for name, value in after.items())


def test_what_does_not_fit_is_refused_before_anything_is_sampled(
    sanac: Sanac, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sanac.reinforce.rounds.free_memory", lambda _: 600_000_000)
    ran = sanac("reinforce", model, "--loss", "dpo", *JUDGED, "--out", "taught")
    assert ran.code == 4, ran.err
    assert "training needs at least" in ran.err
    assert not list(Path().glob("sanac-out/reinforcing-*"))
    first = sanac("reinforce", model, "--loss", "dpo", *JUDGED, "--dry-run", "--out", "taught")
    assert first.code == 4


def test_what_is_short_of_memory_is_changed_and_said(
    sanac: Sanac, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = ("reinforce", model, "--loss", "dpo", *JUDGED, "--dry-run", "--out", "taught")
    assert "training takes about" in (plain := sanac(*dry).err)
    assert "to fit" not in plain
    opened = open_any_model(locate(str(model)))
    given = {"loss": "dpo", "num_prompts": 4, "prompts_per_step": 2, "verifier": "judge:sanac:tiny"}
    settings = build(ReinforceSettings, given)
    needed = policy_training(opened, settings, requests_for(settings, opened), 3, "cpu").memory.total
    monkeypatch.setattr("sanac.reinforce.rounds.free_memory", lambda _: int((needed - 1) / 0.92))
    short = sanac(*dry)
    assert short.code == 0, short.err
    assert "to fit: checkpointing" in short.err
    monkeypatch.setattr("sanac.reinforce.rounds.free_memory", lambda _: int(1.1 * needed))
    assert sanac(*dry).err == plain


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--loss", "dpo"), 2, "--verifier is missing"),
        (("--loss", "dpo", "--verifier", "shapes", "--reward", "1"), 2, "which has a gradient"),
        (("--loss", "dpo", "--verifier", "shapes", "--kl", "1"), 2, "--kl requires --loss dgpo"),
        (("--loss", "dpo", "--samples", "nowhere", *QUICK), 3, "holds no judged samples"),
        (("--loss", "dpo", "--verifier", "judge:nowhere", *QUICK), 2, "there is no nowhere"),
        (("--loss", "dpo", "--verifier", "shapes", "--prompts", "mine.txt"), 2, "can't judge 'a lighthouse'"),
        (("--loss", "dpo", *JUDGED, "--learning-rate", "1e20"), 3, "NaN"),
    ],
)
def test_bad_input(sanac: Sanac, model: Path, options: tuple[str, ...], code: int, message: str) -> None:
    Path("mine.txt").write_text("a lighthouse\na red circle\n")
    ran = sanac("reinforce", model, *options, "--out", "taught")
    assert ran.code == code, ran.err
    assert message in ran.err or "diverged" in ran.err
    assert not Path("taught").exists()


def test_nft_is_for_sana(sanac: Sanac, token_model: Path) -> None:
    assert "a token generator has none" in sanac("reinforce", token_model, "--loss", "nft", *JUDGED).err


def test_samples_of_another_model_are_refused(sanac: Sanac, token_model: Path, pipeline: Path, tmp_path: Path) -> None:
    folder = gathered(token_model, tmp_path / "samples")
    ran = sanac("reinforce", pipeline, "--loss", "dpo", "--samples", folder)
    assert ran.code == 2
    assert "samples of another model" in ran.err


def test_a_dry_run_writes_nothing(sanac: Sanac, model: Path) -> None:
    ran = sanac("reinforce", model, "--loss", "dpo", *JUDGED, "--dry-run", "--out", "taught")
    assert ran.code == 0, ran.err
    assert "would write taught" in ran.out
    assert not Path("taught").exists()
    assert not list(Path().glob("sanac-out/reinforcing-*"))


def test_another_token_folder_is_not_replaced(sanac: Sanac, token_model: Path) -> None:
    Path("taught").mkdir()
    Path("taught/mine.txt").write_text("mine")
    for force in ((), ("--force",)):
        ran = sanac("reinforce", token_model, "--loss", "dpo", *JUDGED, "--out", "taught", *force)
        assert ran.code == 2, ran.err
        assert Path("taught/mine.txt").read_text() == "mine"


def test_judge_samples_as_it_is_typed(sanac: Sanac, model: Path) -> None:
    words = ("judge", "samples", model, *QUICK[:6], "--verifier", "judge:sanac:tiny", "--out", "samples", "--json")
    ran = sanac(*words, "--part", "2/2")
    assert ran.code == 0, ran.err
    assert (ran.json["prompts"], ran.json["missing"]) == (4, 2)
    ran = sanac(*words)
    assert (ran.json["missing"], ran.json["varied"], ran.json["alike"]) == (0, 4, 0)
    assert 0 <= ran.json["mean"] <= ran.json["best"] <= 1
    for options, message in (
        (("--part", "3/2"), "--part is '3/2'"),
        (("--each", "4"), "holds other samples"),
        (("--verifier", "judge:nowhere"), "there is no nowhere"),
    ):
        refused = sanac(*words[:-1], *options)
        assert refused.code == 2, refused.err
        assert message in refused.err
    assert "--verifier is missing" in sanac("judge", "samples", model, "--out", "other").err


def test_a_recipe_reinforces(sanac: Sanac, pipeline: Path) -> None:
    Path("recipe.toml").write_text(
        f'''model = "{pipeline}"
[prune]
keep = "0-3"
[reinforce]
loss = "dpo"
verifier = "judge:sanac:tiny"
num_prompts = 3
each = 2
steps = 2
updates = 2
prompts_per_step = 2
'''
    )
    planned = sanac("run", "recipe.toml", "--dry-run")
    assert planned.code == 0, planned.err
    assert "reinforce --loss dpo" in planned.out
    listed = sanac("reinforce", pipeline, "--loss", "dpo", *JUDGED)
    assert listed.code == 0, listed.err
    assert "judged samples and training state of reinforce" in sanac("ls").out
