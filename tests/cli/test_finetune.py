"""`sanac finetune`: what it says, writes, refuses, and continues."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from safetensors.torch import load_file, save_file

from sanac.tiny.build import build, save
from tests.conftest import Sanac
from tests.finetune.test_image_text_data import folder_of, png, tar_of
from tests.finetune.test_teacher_cache import write_part

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("--steps", "3", "--batch", "4", "--data", "shapes", "--samples", "12")


def pruned(sanac: Sanac, pipeline: Path, out: str = "small") -> Path:
    ran = sanac("prune", pipeline, "--keep", "0,1,3,5", "--out", out)
    assert ran.code == 0, ran.err
    return Path(out)


def weights(folder: Path | str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "transformer" / "diffusion_pytorch_model.safetensors")


def test_after_a_prune_it_is_the_whole_command(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    pruned(sanac, pipeline)
    ran = sanac("finetune", "--steps", "4", "--batch", "4", "--samples", "8", "--sample-every", "4", *PROMPT)
    assert ran.code == 0, ran.err
    assert "the newest artifact" in ran.err
    assert "data-free: 8 latents" in ran.err
    assert "losses: distill; 4 steps of 4" in ran.err
    assert "of memory" in ran.err
    (out,) = (tmp_path / "sanac-out").glob("finetune-*")
    pipe = SanaPipeline.from_pretrained(out)
    assert pipe.transformer.config.num_layers == 4
    before, after = weights("small"), weights(out)
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    names = sorted(path.name for path in (out / "measurements").iterdir())
    assert names == ["finetune.json", "finetune.jsonl", "loss.png", "metrics.json", "samples"]
    assert (out / "measurements" / "samples" / "step-000004.png").is_file()
    assert json.loads((out / "measurements" / "metrics.json").read_text())["finetune/loss_last"] > 0
    assert [step["stage"] for step in json.loads((out / "sanac.json").read_text())["lineage"]] == [
        "source",
        "prune",
        "finetune",
    ]
    assert not list((tmp_path / "sanac-out").glob("training-*")), "what it needed to go on is gone"


PROMPT = ("--sample-prompt", "a red circle")


def test_the_same_command_is_cached_and_others_are_others(sanac: Sanac, pipeline: Path) -> None:
    small = pruned(sanac, pipeline)
    first = sanac("finetune", small, *SHORT, "--json")
    assert first.code == 0, first.err
    assert sanac("finetune", small, *SHORT, "--json").json["status"] == "cached"
    keys = {first.json["key"]}
    for other in (("--loss", "flow"), ("--clip", "0.5"), ("--optimizer", "adamw"), ("--learning-rate", "0.01")):
        keys.add(sanac("finetune", small, *SHORT, *other, "--dry-run", "--json").json["key"])
    assert len(keys) == 5


def test_two_models_in_one_workspace_don_t_share_what_their_encoders_made(sanac: Sanac, pipeline: Path) -> None:
    for number, keep in enumerate(("0,1,3,5", "0,1,2")):
        assert sanac("prune", pipeline, "--keep", keep, "--out", f"small{number}").code == 0
        ran = sanac("finetune", f"small{number}", *SHORT, "--out", f"out{number}")
        assert ran.code == 0, ran.err


def test_a_dry_run_prepares_nothing(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    small = pruned(sanac, pipeline)
    ran = sanac("finetune", small, *SHORT, "--dry-run")
    assert ran.code == 0, ran.err
    assert "would prepare data in sanac-out/data-" in ran.out
    assert "of memory" in ran.err
    assert not list((tmp_path / "sanac-out").glob("data-*"))


@pytest.mark.parametrize("loss", ["flow", "distill", "features", "distill,flow=0.5,features=0.1"])
def test_every_loss(sanac: Sanac, pipeline: Path, loss: str) -> None:
    small = pruned(sanac, pipeline)
    ran = sanac("finetune", small, *SHORT, "--loss", loss, "--out", "out", "--json")
    assert ran.code == 0, ran.err
    assert SanaTransformer2DModel.from_pretrained("out", subfolder="transformer").config.num_layers == 4


def test_images_with_captions(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    small = pruned(sanac, pipeline)
    data = folder_of(tmp_path / "pictures", 24)
    (data / "007.png").write_bytes(b"no picture")
    ran = sanac("finetune", small, "--steps", "2", "--batch", "4", "--data", data, "--out", "out")
    assert ran.code == 0, ran.err
    assert "1 of 24 samples" in ran.err
    assert "007.png" in ran.err
    prepared = next((tmp_path / "sanac-out").glob("data-*"))
    again = sanac("finetune", small, "--steps", "3", "--batch", "4", "--data", prepared, "--out", "again")
    assert again.code == 0, again.err
    for number in range(3):
        (data / f"{number:03d}.png").write_bytes(b"")
    bad = sanac("finetune", small, "--steps", "2", "--data", data, "--out", "bad")
    assert bad.code == 3
    assert "4 of 24 samples" in bad.err


def test_a_lora_is_merged_and_kept(sanac: Sanac, pipeline: Path) -> None:
    small = pruned(sanac, pipeline)
    options = (*SHORT, "--learning-rate", "0.01", "--ema", "0")
    ran = sanac("finetune", small, *options, "--lora", "4", "--lora-file", "lora.safetensors", "--out", "out")
    assert ran.code == 0, ran.err
    before, after = weights(small), weights("out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(before[name].squeeze().dim() == 2 and "transformer_blocks" in name for name in changed)
    file = load_file("lora.safetensors")
    assert all(name.startswith("transformer.transformer_blocks.") for name in file)
    pipe = SanaPipeline.from_pretrained(small)
    pipe.load_lora_weights(".", weight_name="lora.safetensors")
    pipe.fuse_lora()
    fused = {name.replace(".base_layer", ""): tensor for name, tensor in pipe.transformer.state_dict().items()}
    for name in changed:
        assert torch.allclose(fused[name], after[name], atol=1e-5), name


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sanac", "finetune", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_stopped_and_continued_it_ends_in_the_same_bytes(
    sanac: Sanac, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    """Ctrl-C, then SIGTERM, then kill -9: each after a checkpoint that the one before it didn't reach."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = pruned(sanac, pipeline)
    options = (small, "--steps", "60", *SHORT[2:], "--save-every", "7")

    def saved() -> set[Path]:
        return set((tmp_path / "ws").glob("training-*/step-*.safetensors"))

    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGKILL, -9)):
        seen = saved()
        process = start(*options, "--workspace", "ws", "--out", "stopped")
        deadline = time.monotonic() + 120
        while not saved() - seen:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(120) == code
        assert not (tmp_path / "stopped").exists()
    finished = sanac("finetune", *options, "--workspace", "ws", "--out", "stopped")
    assert finished.code == 0, finished.err
    assert "continuing" in finished.err
    assert "not bit-exactly" not in finished.err
    assert sanac("finetune", *options, "--workspace", "other", "--out", "whole").code == 0
    one, other = weights("stopped"), weights("whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--steps is 0: at least 1", ("--steps", "0")),
        ("contradict", ("--data", "shapes", "--data-free")),
        ("'foo', not one of flow", (*SHORT, "--loss", "foo")),
        ("not a loss such as", (*SHORT, "--loss", "flow=1=2")),
        ("need each other", (*SHORT, "--sample-every", "3")),
        ("nowhere does not exist", ("--data", "nowhere")),
        ("is too small", (*SHORT, "--teacher-cache", "1KB")),
        ("unknown tracker 'notebook'", (*SHORT, "--log-with", "notebook")),
        ("--lora-file", (*SHORT, "--lora-file", "lora.safetensors")),
    ],
)
def test_what_makes_no_sense_is_said_at_once(
    sanac: Sanac, pipeline: Path, tmp_path: Path, words: str, options: tuple[str, ...]
) -> None:
    small = pruned(sanac, pipeline)
    ran = sanac("finetune", small, *options)
    assert ran.code == 2, ran.err
    assert words in ran.err
    assert not list((tmp_path / "sanac-out").glob("training-*"))


@pytest.mark.parametrize(
    ("words", "options"),
    [("no training data", ()), ("requires a teacher", (*SHORT, "--loss", "distill"))],
)
def test_a_model_that_was_never_pruned_has_no_teacher(
    sanac: Sanac, pipeline: Path, words: str, options: tuple[str, ...]
) -> None:
    ran = sanac("finetune", pipeline, *options)
    assert ran.code == 2
    assert words in ran.err


def test_without_a_model_it_says_what_to_do(sanac: Sanac) -> None:
    ran = sanac("finetune")
    assert ran.code == 2
    assert "holds no artifact yet" in ran.err


def test_features_need_a_teacher_that_is_related(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    """One of the same depth or deeper that the model was not made from has other blocks, whatever their numbers."""
    small = pruned(sanac, pipeline)
    stranger = tmp_path / "stranger"
    save(build(6, seed=1), stranger)
    options = (*SHORT, "--teacher", stranger, "--out", "out")
    ran = sanac("finetune", small, *options, "--loss", "features")
    assert ran.code == 2
    assert "was not pruned from stranger" in ran.err
    assert sanac("finetune", small, *options, "--loss", "distill").code == 0


def test_a_parent_named_by_all_of_its_bytes_is_found(sanac: Sanac, pipeline: Path) -> None:
    ran = sanac("prune", pipeline, "--keep", "0,1,3,5", "--full-hash", "--out", "small")
    assert ran.code == 0, ran.err
    ran = sanac("finetune", "small", *SHORT, "--loss", "distill,features=0.1", "--out", "out")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    "options",
    [("--precision", "bf16"), ("--checkpointing",), ("--accumulate", "2"), ("--log-with", "tensorboard")],
    ids=lambda options: options[0],
)
def test_ways_to_train(sanac: Sanac, pipeline: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    small = pruned(sanac, pipeline)
    ran = sanac("finetune", small, *SHORT, *options, "--out", "out")
    assert ran.code == 0, ran.err
    before, after = weights(small), weights("out")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(tensor.dtype == before[name].dtype and tensor.isfinite().all() for name, tensor in after.items())
    if "--log-with" in options:
        assert list(tmp_path.glob("**/events.out.tfevents*"))


def test_prepared_data_of_another_shape(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    small = pruned(sanac, pipeline)
    write_part(tmp_path / "wide", "a", 4, side=4)
    made = load_file(tmp_path / "wide" / "a.safetensors")
    save_file({**made, "latents": torch.zeros(4, 8, 4, 4)}, tmp_path / "wide" / "a.safetensors")
    ran = sanac("finetune", small, "--data", tmp_path / "wide")
    assert ran.code == 3
    assert "[any, 16, any, any]" in ran.err
    save_file({"latents": made["latents"]}, tmp_path / "wide" / "a.safetensors")
    ran = sanac("finetune", small, "--data", tmp_path / "wide")
    assert ran.code == 3
    assert "has no captions" in ran.err


def test_a_tar_that_is_cut_off_is_found_before_anything_is_encoded(
    sanac: Sanac, pipeline: Path, tmp_path: Path
) -> None:
    small = pruned(sanac, pipeline)
    members = {f"{number}.{kind}": value for number in range(12) for kind, value in (("png", png()), ("txt", b"red"))}
    tar_of(tmp_path / "data.tar", members)
    whole = (tmp_path / "data.tar").read_bytes()
    (tmp_path / "data.tar").write_bytes(whole[: len(whole) // 2])
    ran = sanac("finetune", small, "--steps", "2", "--data", tmp_path / "data.tar", "--out", "out")
    assert ran.code == 3, ran.err
    assert "truncated" in ran.err
    assert not list((tmp_path / "sanac-out").glob("data-*/part-*"))
    assert not Path("out").exists()


def test_a_run_that_diverges_keeps_its_last_good_state(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    small = pruned(sanac, pipeline)
    options = ("--steps", "50", *SHORT[2:], "--save-every", "1", "--ema", "0", "--warmup", "0", "--optimizer", "adamw")
    ran = sanac("finetune", small, *options, "--learning-rate", "1e30")
    assert ran.code == 3
    assert "diverged at step" in ran.err
    assert "samples" in ran.err
    assert list((tmp_path / "sanac-out").glob("training-*/step-*.safetensors"))
    assert not list((tmp_path / "sanac-out").glob("finetune-*"))


def test_too_little_memory_says_what_would_help(sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanac.finetune.plan.free_memory", lambda _: 1000)
    small = pruned(sanac, pipeline)
    ran = sanac("finetune", small, *SHORT, "--optimizer", "adamw")
    assert ran.code == 4
    for way in (
        "are free",
        "training needs at least",
        "came8bit saves",
        "--ema 0 saves",
    ):
        assert way in ran.err
