"""The trainer of sanac:tiny goes through all of its stages, and a second call finds them done."""

from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline
from safetensors.torch import load_file

from sanac.core.talk import SILENCE
from sanac.tiny import train
from sanac.tiny.train import Recipe, make

SHORT = Recipe(autoencoder_steps=3, reading_steps=3, shallow_steps=4, deep_steps=2)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("control", [False, True])
def test_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, control: bool) -> None:
    monkeypatch.setattr(train, "SCENES", 250)
    made = [
        make(SHORT, tmp_path, torch.device("cpu"), SILENCE, control=control, compiled=False).joinpath("transformer")
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
