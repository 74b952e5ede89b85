"""The loop learns, averages, clips, and continues bit for bit after being killed."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from sanac.core.errors import InvalidInput
from sanac.core.progress import NULL_REPORTER, NullReporter
from sanac.train import checkpoint
from sanac.train.ema import ExponentialAverage
from sanac.train.loop import generator_for, train
from sanac.train.task import FlowTask
from tests.finetune import small

pytestmark = pytest.mark.usefixtures("one_thread")


class Heard(NullReporter):
    """A Talk that remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _learned(folder: Path) -> list[dict]:
    return [{key: line[key] for key in ("step", "loss", "learning_rate", "gradient_norm")} for line in _metrics(folder)]


def test_the_loss_falls(tmp_path: Path) -> None:
    train(small.task(), small.settings(120), tmp_path, NULL_REPORTER)
    losses = [line["loss"] for line in _metrics(tmp_path)]
    assert sum(losses[-10:]) < 0.92 * sum(losses[:10])


def test_metrics_name_the_rate_that_was_used(tmp_path: Path) -> None:
    settings = small.settings()
    train(small.task(), settings, tmp_path, NULL_REPORTER)
    lines = _metrics(tmp_path)
    assert [line["step"] for line in lines] == list(range(2, 21, 2))
    assert all(line["learning_rate"] == settings.schedule.at(line["step"] - 1) for line in lines)


def test_a_run_continues_bit_for_bit(tmp_path: Path) -> None:
    """Killed in the middle and continued, it learns what a run learns that never stopped."""
    whole = small.digest(tmp_path / "whole")
    folder = tmp_path / "parts"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.finetune.small", str(folder), "20"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for _ in range(13):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= checkpoint.load(folder, NULL_REPORTER)[1]["step"] < 15
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1')  # torn in the middle of a line
    heard = Heard()
    assert small.digest(folder, reporter=heard) == whole
    assert heard.warnings == []
    assert _learned(folder) == _learned(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step_and_saves(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.finetune.small", str(folder), "5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509 (a shell's background jobs ignore Ctrl-C)
    )
    assert process.stdout
    for _ in range(8):
        process.stdout.readline()
    process.send_signal(number)
    assert process.wait(60) != 0
    assert checkpoint.load(folder, NULL_REPORTER)[1]["step"] >= 7


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = small.digest(tmp_path)
    data = small.Few()
    again = train(small.task(data=data), small.settings(), tmp_path, NULL_REPORTER)["transformer"]
    assert " ".join(f"{tensor.double().sum().item():.17g}" for tensor in again.values()) == first
    assert data.asked == []


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    small.digest(tmp_path)
    for other in (small.settings(seed=1), small.settings(30), small.settings(clip=0.5), small.settings(average=0.9)):
        with pytest.raises(InvalidInput, match="another configuration"):
            train(small.task(), other, tmp_path, NULL_REPORTER)
    with pytest.raises(InvalidInput, match="another configuration"):
        train(small.task(caption_dropout=0.5), small.settings(), tmp_path, NULL_REPORTER)
    train(small.task(), small.settings(save_every=7), tmp_path, NULL_REPORTER)


def test_other_surroundings_are_warned_of(tmp_path: Path) -> None:
    train(small.task(), small.settings(), tmp_path, NULL_REPORTER)
    torch.set_num_threads(2)
    heard = Heard()
    train(small.task(), small.settings(), tmp_path, heard)
    assert heard.warnings == ["continuing, but not bit-exactly, as the environment changed: threads was 1, is 2"]


def test_new_checkpoints_outlive_damaged_ones_that_claim_to_be_further(tmp_path: Path) -> None:
    for step in (15, 20):
        (tmp_path / f"step-{step:07d}.safetensors").write_bytes(b"{}")
    for step in (5, 10):
        checkpoint.save(tmp_path, step, {"weights/a": torch.ones(1)}, {})
    found = checkpoint.load(tmp_path, NULL_REPORTER)
    assert found is not None
    assert found[1]["step"] == 10
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    whole = small.digest(tmp_path)
    newest = max(tmp_path.glob("step-*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:1000])
    heard = Heard()
    assert small.digest(tmp_path, reporter=heard) == whole
    assert len(heard.warnings) == 1
    assert newest.name in heard.warnings[0]


def test_checkpoints_are_two_and_hold_no_pickle(tmp_path: Path) -> None:
    small.digest(tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["metrics.jsonl", "step-0000015.safetensors", "step-0000020.safetensors"]
    with safe_open(tmp_path / files[-1], framework="pt") as file:
        assert {name.split("/")[0] for name in file.keys()} == {"weights", "average", "optimizer"}  # noqa: SIM118
        assert json.loads(file.metadata()["sanac"])["environment"]["threads"] == "1"


def test_what_is_kept_is_the_average(tmp_path: Path) -> None:
    """Checked against the average worked out from the weights of every step."""
    task, settings = small.task(), small.settings(average=0.9)
    name = "proj_out.weight"
    weight = dict(task.transformer.named_parameters())[name]
    expected, history = weight.detach().clone(), []
    task.transformer.register_forward_pre_hook(lambda *_: history.append(weight.detach().clone()))
    averaged = train(task, settings, tmp_path, NULL_REPORTER)["transformer"]
    history.append(weight.detach().clone())
    for step, current in enumerate(history[1:]):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * current
    assert torch.allclose(averaged[name], expected, atol=1e-6)
    assert not torch.allclose(averaged[name], weight, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["came8bit", "came", "adamw", "adamw8bit"])
def test_every_optimizer_continues_bit_for_bit(tmp_path: Path, optimizer: str) -> None:
    def task() -> FlowTask:
        found = small.task()
        if optimizer == "adamw8bit":  # compiled for each shape: one that it keeps in 8 bits, and one that it doesn't
            learned = {found.transformer.proj_out.weight, max(found.transformer.parameters(), key=torch.Tensor.numel)}
            for weight in found.transformer.parameters():
                weight.requires_grad_(weight in learned)
        return found

    settings = small.settings(8, optimizer=optimizer, save_every=4)
    whole = train(task(), settings, tmp_path / "whole", NULL_REPORTER)["transformer"]
    stopping = task()
    loss = type(stopping).loss

    def stopped(self: FlowTask, generator: torch.Generator, number: int) -> torch.Tensor:
        if number == 6:
            raise KeyboardInterrupt
        return loss(self, generator, number)

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FlowTask, "loss", stopped)
        train(stopping, settings, tmp_path / "parts", NULL_REPORTER)
    continued = train(task(), settings, tmp_path / "parts", NULL_REPORTER)["transformer"]
    assert all(torch.equal(whole[name], continued[name]) for name in whole)


def test_two_batches_a_step_are_one_of_both(tmp_path: Path) -> None:
    """Accumulated, the gradient is the mean of the batches' gradients."""
    norms = []
    for accumulate in (1, 2):
        settings = small.settings(1, accumulate=accumulate)
        settings = dataclasses.replace(settings, log_every=1, clip=1e9)
        train(small.task(), settings, tmp_path / str(accumulate), NULL_REPORTER)
        norms.append(_metrics(tmp_path / str(accumulate))[0]["gradient_norm"])
    task = small.task()
    for number in range(2):
        (task.loss(generator_for(0, number), number) / 2).backward()
    expected = torch.stack([p.grad.norm() for p in task.transformer.parameters() if p.grad is not None]).norm()
    assert norms[1] == pytest.approx(float(expected), rel=1e-4)
    assert norms[0] != norms[1]


def test_without_an_average_the_weights_are_kept(tmp_path: Path) -> None:
    task = small.task()
    found = train(task, small.settings(3, average=0.0), tmp_path, NULL_REPORTER)["transformer"]
    assert all(torch.equal(found[name], weight) for name, weight in task.transformer.named_parameters())


def test_the_average_starts_quickly() -> None:
    average = ExponentialAverage({"w": torch.zeros(1)}, 0.999)
    average.update({"w": torch.ones(1)}, 0)
    assert average.weights["w"].item() == pytest.approx(0.9)
    assert average.decay(10**9) == 0.999


def test_gradients_are_clipped(tmp_path: Path) -> None:
    norms = []
    before = nn.utils.clip_grad_norm_

    def watching(parameters, limit):
        parameters = list(parameters)
        found = before(parameters, limit)
        norms.append(float(torch.stack([weight.grad.norm() for weight in parameters]).norm()))
        return found

    nn.utils.clip_grad_norm_ = watching
    try:
        train(small.task(), small.settings(clip=0.01), tmp_path, NULL_REPORTER)
    finally:
        nn.utils.clip_grad_norm_ = before
    assert max(norms) == pytest.approx(0.01, rel=1e-3)


def test_captions_are_dropped_only_as_often_as_asked(tmp_path: Path) -> None:
    encoder = small.Encoder()
    train(small.task(encode=encoder, caption_dropout=0.25), small.settings(60), tmp_path, NULL_REPORTER)
    captions = [caption for batch in encoder.seen for caption in batch]
    assert captions.count("") / len(captions) == pytest.approx(0.25, abs=0.06)


def test_divergence_names_the_step(tmp_path: Path) -> None:
    data = small.Few()
    data.latents[:] = torch.nan
    with pytest.raises(InvalidInput, match="diverged at step 0"):
        train(small.task(data=data), small.settings(), tmp_path, NULL_REPORTER)
    assert not list(tmp_path.glob("step-*"))


def test_randomness_depends_on_seed_and_step_alone() -> None:
    draws = {torch.rand(1, generator=generator_for(seed, step)).item() for seed in range(4) for step in range(50)}
    assert len(draws) == 200
    assert torch.rand(3, generator=generator_for(1, 2)).equal(torch.rand(3, generator=generator_for(1, 2)))


def test_bf16_keeps_weights_in_fp32(tmp_path: Path) -> None:
    weights = train(small.task(), small.settings(6, precision="bf16"), tmp_path, NULL_REPORTER)["transformer"]
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
