"""Laws of choosing and cutting: they hold for any weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sanac.core.artifact.manifest import read_manifest
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.nn.blocks.block import Geometry
from sanac.nn.blocks.forward import forward
from sanac.nn.calibration import sampling
from sanac.nn.calibration.sampling import SamplerSettings
from sanac.nn.calibration.text_encoding import EncodedPrompts, encode
from sanac.nn.pipeline_config import scheduler_of
from sanac.prune.importance_job import ImportanceJob, analyze
from sanac.prune.scores import score
from sanac.prune.selection import BlockSelection, best
from tests.conftest import Sanac

PROMPTS = ("two red circles", "a blue square above a cross", "a triangle", "a red cross", "a green circle")
ORDER = [3, 0, 4, 2, 1]
IDENTITY = 3


def _scored(model: Model, captions: EncodedPrompts, batch: int, folder: Path) -> tuple[float, ...]:
    job = ImportanceJob(
        model, PROMPTS, SamplerSettings(3, side=4, batch=batch), scheduler_of(model), False, 10**9, "cpu"
    )
    folder.mkdir()
    return analyze(job, captions, folder, NULL_REPORTER).of("bi")


@pytest.mark.parametrize("batch", [1, 2])
def test_the_order_of_prompts_does_not_matter(
    batch: int, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each prompt with its noise, in another order, alone or with others beside it in a batch.

    In exact arithmetic the scores are equal. In fp32 the mean over prompts is summed in another order (1e-15), and a
    batch may round otherwise with others in it (1e-6). Blocks nearer to each other than that could change places.
    """
    model = open_model(locate(str(pipeline)))
    captions = encode(model, PROMPTS, torch.device("cpu"))
    found = _scored(model, captions, batch, tmp_path / "a")
    real = sampling.starting_noise
    monkeypatch.setattr(sampling, "starting_noise", lambda *given: real(*given)[ORDER])
    permuted = EncodedPrompts(captions.embeddings[ORDER], captions.mask[ORDER], captions.empty, captions.empty_mask)
    other = _scored(model, permuted, batch, tmp_path / "b")
    assert other == pytest.approx(found, rel=1e-12 if batch == 1 else 1e-5)
    for target in range(1, len(found) + 1):
        assert best(found, BlockSelection("bi", target)) == best(other, BlockSelection("bi", target))


def test_a_prompts_file_may_be_sorted_otherwise(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    """Scores, search and repair come out the same, byte for byte."""
    lines = [*PROMPTS, PROMPTS[0]]
    (tmp_path / "one.txt").write_text("\n".join(lines))
    (tmp_path / "other.txt").write_text("\n\n".join(lines[place] for place in (5, 3, 0, 4, 2, 1)))
    found = []
    for name in ("one", "other"):
        asked = ("--prompts", tmp_path / f"{name}.txt", "--timesteps", "3", "--workspace", tmp_path / name)
        ran = sanac("analyze", pipeline, *asked, "--json")
        assert ran.json["status"] == "ok", ran.err
        job = ("prune", pipeline, "--target-blocks", "3", "--select", "search", "--compensate")
        pruned = sanac(*job, *asked, "--out", tmp_path / name / "small", "--json")
        assert pruned.json["status"] == "ok", pruned.err
        scores = json.loads((Path(ran.json["out"]) / "scores.json").read_text())
        weights = tmp_path / name / "small" / "transformer" / "diffusion_pytorch_model.safetensors"
        found.append((scores["metrics"], scores["key"], pruned.json["plan"], weights.read_bytes()))
    assert found[0] == found[1]


@given(st.lists(st.floats(-1e-9, 2), min_size=1, max_size=50), st.randoms())
def test_a_score_is_the_same_whatever_the_order(values: list[float], random) -> None:
    shuffled = random.sample(values, len(values))
    one, other = score(values, [0.0]), score(shuffled, [0.0])
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), rel=1e-12, abs=1e-12)


@pytest.fixture
def with_identity(pipeline: Path, tmp_path: Path) -> Path:
    """A model one of whose blocks adds nothing: all that it adds goes through weights that are zero."""
    folder = Path(shutil.copytree(pipeline, tmp_path / "with-identity"))
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for name in ("attn1.to_out.0.weight", "attn1.to_out.0.bias", "attn2.to_out.0.weight", "attn2.to_out.0.bias"):
        tensors[f"transformer_blocks.{IDENTITY}.{name}"].zero_()
    tensors[f"transformer_blocks.{IDENTITY}.ff.conv_point.weight"].zero_()
    save_file(tensors, path, {"format": "pt"})
    return folder


@torch.no_grad()
def _velocities(folder: Path) -> tuple[Tensor, Tensor]:
    """Ours and diffusers'."""
    model = SanaTransformer2DModel.from_pretrained(folder / "transformer").eval()
    torch.manual_seed(0)
    latents, caption, times = torch.randn(2, 16, 4, 4), torch.randn(2, 5, 64), torch.tensor([900.0, 20.0])
    ours = forward(model.state_dict(), Geometry.of(model.config), latents, caption, times)
    return ours, model(latents, caption, times).sample


def test_pruning_a_block_that_adds_nothing_changes_nothing(sanac: Sanac, with_identity: Path, tmp_path: Path) -> None:
    few = ("--num-prompts", "2", "--timesteps", "2")
    ran = sanac("prune", with_identity, "--target-blocks", "5", "--select", "bi", *few, "--out", "out", "--json")
    assert [entry["keep"] for entry in ran.json["plan"]["blocks"]] == [0, 1, 2, 4, 5], "it is worth the least"
    for before, after in zip(_velocities(with_identity), _velocities(tmp_path / "out"), strict=True):
        assert torch.equal(before, after)


def test_pruning_twice_to_the_same_blocks_is_once(sanac: Sanac, pipeline: Path, tmp_path: Path) -> None:
    """Whether a block is dropped at once or on the way: the same tensors in the end, by their digests."""
    assert sanac("prune", pipeline, "--keep", "1-2,4", "--out", "once").code == 0
    assert sanac("prune", "once", "--keep", "0-2", "--out", "twice").code == 0
    assert sanac("prune", pipeline, "--keep", "0-2,4-5", "--out", "half").code == 0
    assert sanac("prune", "half", "--keep", "1-3", "--out", "rest").code == 0
    once, *others = (read_manifest(tmp_path / name) for name in ("once", "twice", "rest"))
    assert once is not None
    assert once.tensors
    for other in others:
        assert other is not None
        assert other.tensors == once.tensors
