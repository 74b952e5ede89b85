"""The trainer of sanac:tiny goes through all of its stages, and a second call finds them done."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers import SanaPipeline
from safetensors.torch import load_file

from sanac.core.progress import NULL_REPORTER
from sanac.tiny import build, train
from sanac.tiny.autoencoder import AutoencoderTask
from sanac.tiny.train import Recipe, main, make
from sanac.train import loop
from sanac.train.loop import Settings
from sanac.train.schedule import Schedule

SHORT = Recipe(autoencoder_steps=3, reading_steps=3, shallow_steps=4, deep_steps=2)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("control", [False, True])
def test_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, control: bool) -> None:
    monkeypatch.setattr(train, "SCENES", 250)
    made = [
        make(SHORT, tmp_path, torch.device("cpu"), NULL_REPORTER, control=control, compiled=False).joinpath(
            "transformer"
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]
    pipeline = SanaPipeline.from_pretrained(made[0].parent)
    assert pipeline.transformer.config.num_layers == 12
    averaged = load_file(max((tmp_path / ("control" if control else "deep")).glob("step-*.safetensors")))
    for name, weight in pipeline.transformer.state_dict().items():
        assert torch.equal(weight.float(), averaged[f"average/transformer/{name}"].bfloat16().float()), name
    assert SHORT.control_steps == 4
    if not control:
        assert SanaPipeline.from_pretrained(tmp_path / "shallow-model").transformer.config.num_layers == 6


def test_mistakes_are_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for words, code in (([str(tmp_path / "file" / "in")], 3), ([str(tmp_path), "--device", "tpu"], 2)):
        ran = CliRunner().invoke(main, words)
        assert ran.exit_code == code, ran.output
        assert ran.output.startswith("error: ")
    train_of(tmp_path / "run", rate=1e-3)
    ran = CliRunner().invoke(main, [str(tmp_path / "run")])
    assert ran.exit_code == 3
    assert "another configuration" in ran.output


def train_of(folder: Path, rate: float) -> None:
    """A first step of the first stage, with other settings than the trainer's."""
    vae = build.autoencoder()
    loop.train(AutoencoderTask(vae), Settings(Schedule(rate, 1)), folder / "autoencoder", NULL_REPORTER)
