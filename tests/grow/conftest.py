"""What the tests of growth share: growing, loading and running small models."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import SanaTransformer2DModel

from sanac.core.artifact.manifest import Manifest
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.grow.depth import decide_growth
from sanac.prune.keep_list import plan_keep
from sanac.tiny.build import transformer

ALONE = WriteOptions(transformer_only=True)


def grow(source: Path, target: int, out: Path, **how) -> Manifest:
    writing = how.pop("writing", ALONE)
    loras = how.pop("loras", ())
    model = open_model(locate(str(source))).with_loras(loras)
    return write_partial(decide_growth(model, target, writing, **how), out, NULL_REPORTER)[1]


def prune(source: Path, keep: str, out: Path) -> Manifest:
    return write_partial(plan_keep(open_model(locate(str(source))), keep, ALONE), out, NULL_REPORTER)[1]


def tensors(out: Path) -> dict[str, torch.Tensor]:
    folder = out / "transformer" if (out / "transformer").is_dir() else out
    return {n: t for path in folder.glob("*.safetensors") for n, t in safetensors.torch.load_file(path).items()}


def block(found: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    start = f"transformer_blocks.{index}."
    return {name.removeprefix(start): tensor for name, tensor in found.items() if name.startswith(start)}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def load(out: Path, dtype: torch.dtype = torch.float32) -> SanaTransformer2DModel:
    folder = out / "transformer" if (out / "transformer").is_dir() else out
    return SanaTransformer2DModel.from_pretrained(folder, torch_dtype=dtype).eval()


def velocity(model: SanaTransformer2DModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    dtype = model.dtype
    with torch.no_grad():
        return model(
            torch.randn(2, model.config.in_channels, 6, 4, generator=generator).to(dtype),
            encoder_hidden_states=torch.randn(2, 5, model.config.caption_channels, generator=generator).to(dtype),
            timestep=torch.tensor([3.0, 700.0]),
        ).sample


def truncated(source: Path, blocks: int, dtype: torch.dtype = torch.float32) -> SanaTransformer2DModel:
    model = load(source, dtype)
    model.transformer_blocks = model.transformer_blocks[:blocks]
    return model


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A transformer without QK norm, as SANA-1.0 is."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    torch.manual_seed(0)
    transformer(6, qk_norm=False).save_pretrained(folder)
    return folder
