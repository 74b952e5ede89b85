"""Parts of pipelines: tiles without seams, SANA-Sprint's pipeline, memory that runs out, GPUs that aren't here."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

import sanac
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import MissingResource
from sanac.judge.image_metrics import psnr
from sanac.nn.generation import GenerationSettings
from sanac.runtime.backends import graphs_in
from sanac.runtime.onnx_session import OnnxSession
from sanac.runtime.pipeline import open_generator
from sanac.runtime.tiled_decode import tiled
from tests.conftest import Sanac, sanac_must


def export(source: object, out: Path) -> Path:
    sanac_must("export", source, "--precision", "fp32", "--no-verify", "--out", out)
    return out


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 12), st.integers(1, 3))
def test_tiles_of_what_looks_at_nothing_else_are_the_whole(rows: int, columns: int, side: int, factor: int) -> None:
    """A decoder that only enlarges: wherever tiles lie, they agree, and nothing is lost or moved."""
    latents = torch.randn(1, 2, rows, columns)

    def decode(part: torch.Tensor) -> torch.Tensor:
        assert max(part.shape[2:]) <= side
        return part.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    whole = latents.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    torch.testing.assert_close(tiled(decode, latents, side), whole)


@pytest.mark.parametrize("size", [(28, 16), (16, 28)])
def test_tiles_fade_into_each_other(size: tuple[int, int]) -> None:
    """Tiles of another brightness each: from one to the next it goes in small steps, in both directions."""
    count = itertools.count()
    found = tiled(lambda part: torch.full((1, 1, *part.shape[2:]), float(next(count))), torch.zeros(1, 1, *size), 16)
    along = found[0, 0, :, 3] if size[0] > size[1] else found[0, 0, 3]
    assert (along[0], along[-1]) == (0, next(count) - 1)
    assert along.diff().min() >= 0
    assert along.diff().max() < 0.25


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_tiled_pictures(tiny_graphs: Path, backend: str) -> None:
    """sanac:tiny's decoder looks a few pixels far: tiles of half the picture give the same."""
    generator = open_generator(open_model(locate(str(tiny_graphs))), "cpu", backend)
    sizes = {"steps": 2, "size": (128, 96)}
    (whole,) = (batch[0] for batch in generator.generate(["a red circle"], [0], GenerationSettings(**sizes)))
    for _ in range(2):  # it is tiled for the time of a call
        (found,) = (
            batch[0] for batch in generator.generate(["a red circle"], [0], GenerationSettings(**sizes, tile=64))
        )
    assert found.shape == whole.shape == (96, 128, 3)
    assert psnr(found, whole) > 35
    assert not np.array_equal(found, whole), "it was decoded whole"
    (again,) = (batch[0] for batch in generator.generate(["a red circle"], [0], GenerationSettings(**sizes)))
    assert np.array_equal(again, whole), "afterwards it is in one piece again"


def test_stock_tiling_of_a_graph(tiny_graphs: Path) -> None:
    """By diffusers' own switch, and back."""
    vae = sanac.load_pipeline(tiny_graphs, "cpu", "onnx").vae
    latents = torch.randn(1, vae.config.latent_channels, 16, 8)
    whole = vae.decode(latents).sample
    vae.enable_tiling(64, 64)
    found = vae.decode(latents, return_dict=False)[0]
    assert found.shape == whole.shape
    assert (found - whole).abs().max() > 0
    vae.disable_tiling()
    torch.testing.assert_close(vae.decode(latents).sample, whole, rtol=0, atol=0)


@pytest.fixture(scope="module")
def sprint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SANA-Sprint, whole: sanac:tiny's surroundings, an untrained transformer, its sampler."""
    folder = Path(shutil.copytree(locate("sanac:tiny").path, tmp_path_factory.mktemp("models") / "sprint"))
    torch.manual_seed(0)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    shutil.rmtree(folder / "transformer")
    SanaTransformer2DModel(**known | {"guidance_embeds": True, "num_layers": 3}).save_pretrained(folder / "transformer")
    shutil.rmtree(folder / "scheduler")
    SCMScheduler(prediction_type="trigflow", sigma_data=0.5).save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "SanaSprintPipeline", "scheduler": ["diffusers", "SCMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return export(folder, folder.parent / "exported")


@pytest.mark.parametrize(("steps", "side"), [(1, 512), (2, 1024), (4, 512)])
def test_sprint(sprint: Path, steps: int, side: int) -> None:
    """Stock SanaSprintPipeline's own call, with a callback; graphs in the place of its models."""
    seen: list[int] = []

    def called(_pipeline: Any, step: int, _time: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return given

    def painted(backend: str) -> np.ndarray:
        pipeline = sanac.load_pipeline(sprint, "cpu", backend)
        assert isinstance(pipeline, SanaSprintPipeline)
        pipeline.set_progress_bar_config(disable=True)
        seeds = [torch.Generator().manual_seed(seed) for seed in range(2)]
        how = {"num_inference_steps": steps, "use_resolution_binning": False, "output_type": "np"}
        how |= {"intermediate_timesteps": 1.3 if steps == 2 else None, "callback_on_step_end": called}
        return pipeline(["a red circle", "a blue square"], generator=seeds, height=side, width=side, **how).images

    wanted, found = painted("torch"), painted("onnx")
    assert seen == [*range(steps)] * 2
    assert -10 * np.log10(max(np.square(wanted - found).mean(axis=(1, 2, 3)).max(), 1e-12)) > 40


def test_generate_with_sprint(sanac: Sanac, sprint: Path) -> None:
    """Two steps unless told otherwise."""
    for backend in ("torch", "onnx"):
        ran = sanac("generate", sprint, "a red circle", "--backend", backend, "--out", backend, "--json")
        assert ran.code == 0, ran.err
        assert '"steps": 2' in _settings(ran.json["pictures"][0])
    ran = sanac("verify", sprint, "--against", sprint)
    assert (ran.code, "the same function" in ran.out) == (0, True), ran.err


def _settings(path: str) -> str:
    from PIL import Image

    return str(Image.open(path).text["settings"])


def test_memory_that_runs_out_on_the_gpu(tiny_graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the transformer, and of the decoder, whose failure stock pipelines only warn of."""
    generator = open_generator(open_model(locate(str(tiny_graphs))), "cpu")

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for owner, name in ((generator.pipeline.vae, "decode"), (generator.pipeline.transformer, "forward")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full)
            with pytest.raises(MissingResource, match="ran out of memory generating 1 of") as caught:
                list(generator.generate(["a red circle"], [0], GenerationSettings(1)))
        assert "--tile 512" in caught.value.hint


def test_memory_that_runs_out_in_onnxruntime(tiny_graphs: Path) -> None:
    graph = OnnxSession(graphs_in(open_model(locate(str(tiny_graphs))))["vae_decoder"])
    with pytest.raises(MissingResource, match="can't run") as caught:
        graph(latent_sample=torch.zeros(1).expand(1, 8, 90_000, 90_000))
    assert "--tile" in caught.value.hint


def test_gpus_that_are_not_here(sanac: Sanac, tiny_graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in ("onnx-trt", "onnx-rtx"):
        ran = sanac("generate", tiny_graphs, "a red circle", "--backend", backend)
        assert (ran.code, "requires a GPU" in ran.err) == (4, True), ran.err
        with pytest.raises(MissingResource, match="has no") as caught:
            OnnxSession(graphs_in(open_model(locate(str(tiny_graphs))))["transformer"], "cuda", backend=backend)
        assert ("tensorrt-rtx" if backend == "onnx-rtx" else "'tensorrt>=") in caught.value.hint
    with pytest.raises(MissingResource, match="has no CUDAExecutionProvider"):
        OnnxSession(graphs_in(open_model(locate(str(tiny_graphs))))["transformer"], "cuda")


def test_a_provider_that_only_claims_to_be_there(tiny_graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime-gpu without CUDA's libraries goes on with the processor, and says so nowhere but in its log."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    real = onnxruntime.InferenceSession

    def falling_back(graph: object, options: object, providers: object, **how: object) -> object:
        return real(graph, options, providers=["CPUExecutionProvider"], **how)

    monkeypatch.setattr(onnxruntime, "InferenceSession", falling_back)
    with pytest.raises(MissingResource, match="can't use this GPU"):
        OnnxSession(graphs_in(open_model(locate(str(tiny_graphs))))["transformer"], "cuda")
