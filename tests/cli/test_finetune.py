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
from safetensors.torch import load_file

from tests.conftest import Ran, Sanac
from tests.finetune.test_pairs import folder_of
from tests.finetune.test_teacher import write_part

SHORT = ("--steps", "3", "--batch", "4", "--data", "shapes", "--samples", "12")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    assert ran.code == 4
    assert "not prepared before" in ran.err
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
    return subprocess.Popen(
        [sys.executable, "-m", "sanac", "finetune", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGKILL, -9)])
def test_stopped_and_continued_it_ends_in_the_same_bytes(
    sanac: Sanac, pipeline: Path, tmp_path: Path, number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    small = pruned(sanac, pipeline)
    options = (small, "--steps", "60", *SHORT[2:], "--save-every", "7")
    process = start(*options, "--workspace", "ws", "--out", "stopped")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "ws").glob("training-*/step-*.safetensors")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(120) == code
    assert not (tmp_path / "stopped").exists()
    finished = start(*options, "--workspace", "ws", "--out", "stopped")
    _, talk = finished.communicate()
    assert finished.returncode == 0, talk
    assert "continuing" in talk
    assert "not bit for bit" not in talk
    whole = start(*options, "--workspace", "other", "--out", "whole")
    assert whole.wait(120) == 0
    one, other = weights("stopped"), weights("whole")
    assert all(torch.equal(one[name], other[name]) for name in one)


def refused(sanac: Sanac, code: int, words: str, *arguments: object) -> Ran:
    ran = sanac("finetune", *arguments)
    assert ran.code == code, ran.err
    assert words in ran.err
    return ran


def test_what_makes_no_sense_is_said_at_once(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    refused(sanac, 2, "holds no artifact yet")
    refused(sanac, 2, "nothing to learn from", pipeline)
    refused(sanac, 2, "needs a teacher", pipeline, *SHORT, "--loss", "distill")
    small = pruned(sanac, pipeline)
    refused(sanac, 2, "--steps 0", small, "--steps", "0")
    refused(sanac, 2, "contradict", small, "--data", "shapes", "--data-free")
    refused(sanac, 2, "no loss 'foo'", small, *SHORT, "--loss", "foo")
    refused(sanac, 2, "can't be read", small, *SHORT, "--loss", "flow=1=2")
    refused(sanac, 2, "belong together", small, *SHORT, "--sample-every", "3")
    refused(sanac, 2, "there is no nowhere", small, "--data", "nowhere")
    refused(sanac, 2, "is too small", small, *SHORT, "--teacher-cache", "1KB")
    write_part(tmp_path / "wide", "a", 4, side=4)
    made = load_file(tmp_path / "wide" / "a.safetensors")
    from safetensors.torch import save_file

    save_file({**made, "latents": torch.zeros(4, 8, 4, 4)}, tmp_path / "wide" / "a.safetensors")
    refused(sanac, 3, "[any, 16, any, any]", small, "--data", tmp_path / "wide")
    save_file({"latents": made["latents"]}, tmp_path / "wide" / "a.safetensors")
    refused(sanac, 3, "brings no captions", small, "--data", tmp_path / "wide")


def test_a_run_that_diverges_keeps_its_last_good_state(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    small = pruned(sanac, pipeline)
    options = ("--steps", "50", *SHORT[2:], "--save-every", "1", "--ema", "0", "--warmup", "0", "--optimizer", "adamw")
    ran = refused(sanac, 3, "diverged at step", small, *options, "--learning-rate", "1e30")
    assert "samples" in ran.err
    assert list((tmp_path / "sanac-out").glob("training-*/step-*.safetensors"))
    assert not list((tmp_path / "sanac-out").glob("finetune-*"))


def test_too_little_memory_says_what_would_help(sanac: Sanac, pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sanac.finetune.job.available_memory", lambda: 1000)
    small = pruned(sanac, pipeline)
    ran = refused(sanac, 4, "are free", small, *SHORT, "--optimizer", "adamw")
    for way in ("--batch 2 --accumulate 2 saves", "--checkpointing saves", "came8bit saves", "--ema 0 saves"):
        assert way in ran.err
