"""Many choices of blocks in one sweep give what deleting the blocks gives."""

from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.nn.blocks.block import Geometry
from sanac.nn.blocks.embed_head import embed
from sanac.nn.calibration.block_subsets import relative_error, velocities
from sanac.nn.streaming import Blocks

CHOICES = [(0, 1, 2, 3, 4, 5), (0, 1, 2), (3, 4, 5), (0, 2, 4), (5,), (0, 1, 2, 4, 5)]


def inputs(samples: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "hidden_states": torch.randn(samples, 16, 4, 4, generator=generator),
        "encoder_hidden_states": torch.randn(samples, 7, 64, generator=generator),
        "timestep": torch.tensor([900.0, 20.0])[:samples],
    }


def test_every_choice_is_the_model_with_those_blocks(pipeline: Path) -> None:
    model = open_model(locate(str(pipeline)))
    blocks = Blocks(model, torch.device("cpu"), torch.float32)
    given = inputs()
    start = embed(blocks.outside(), *given.values())
    with torch.no_grad():
        found = velocities(blocks, blocks.outside(), Geometry.of(model.transformer.config), [start], CHOICES)
        assert list(found) == CHOICES
        for kept, (velocity,) in found.items():
            stock = SanaTransformer2DModel.from_pretrained(pipeline, subfolder="transformer").eval()
            stock.transformer_blocks = torch.nn.ModuleList(stock.transformer_blocks[index] for index in kept)
            assert torch.equal(velocity, stock(**given).sample), kept


def test_beginnings_are_computed_once(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(locate(str(pipeline)))
    blocks = Blocks(model, torch.device("cpu"), torch.float32, resident=True)
    start = embed(blocks.outside(), *inputs().values())
    computed = []
    monkeypatch.setattr(
        "sanac.nn.calibration.block_subsets.block", lambda tensors, state, *_: (computed.append(1), state)[1]
    )
    without_one = [tuple(index for index in range(6) if index != left) for left in range(6)]
    geometry = Geometry.of(model.transformer.config)
    velocities(blocks, blocks.outside(), geometry, [start], without_one)
    assert len(computed) == 5 + 5 + 4 + 3 + 2 + 1, "the shared way once, and each choice from where it parts"


def test_the_relative_error_is_per_sample() -> None:
    wanted = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert relative_error(wanted, wanted).tolist() == [0.0, 0.0]
    assert relative_error(torch.zeros(2, 2), wanted).tolist() == [1.0, 1.0]
    assert relative_error(torch.tensor([[3.0, 9.0], [0.0, 2.0]]), wanted).tolist() == [1.0, 0.0]
