"""What was exported, behind stock diffusers' own call: torch's pictures, from several threads, and clear refusals."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sanac
from sanac.core.errors import UsageError
from sanac.runtime.backends import _Words
from tests.conftest import Sanac, Shared, sanac_must

PROMPTS = ["a red circle", "two blue squares"]


@pytest.fixture(scope="module")
def exported(shared: Shared) -> Path:
    """Four blocks of sanac:tiny with graphs in fp32."""

    def making(out: Path) -> None:
        sanac_must("prune", "sanac:tiny", "--keep", "0-3", "--out", out)
        sanac_must("export", out, "--in-place", "--precision", "fp32", "--no-verify")

    return shared("four", making)


@pytest.fixture(scope="module")
def rounded(shared: Shared) -> Path:
    """sanac:tiny in int8, weights and what they are multiplied by, with its transformer's graph."""

    def making(out: Path) -> None:
        sanac_must("quantize", "sanac:tiny", "--scheme", "int8", "--num-prompts", 8, "--out", out)
        how = ("--in-place", "--component", "transformer", "--precision", "fp32", "--no-verify")
        sanac_must("export", out, *how)

    return shared("tiny-int8", making)


def painted(pipeline: Any, seed: int = 0, **settings: Any) -> np.ndarray:
    seeds = [torch.Generator().manual_seed(seed + number) for number in range(len(PROMPTS))]
    how = {"num_inference_steps": 6, "use_resolution_binning": False, "output_type": "np", "height": 512, "width": 512}
    return pipeline(PROMPTS, generator=seeds, **how | settings).images


@pytest.fixture(scope="module")
def pipelines(exported: Path) -> dict[str, Any]:
    found = {backend: sanac.load_pipeline(exported, "cpu", backend) for backend in ("torch", "onnx")}
    for pipeline in found.values():
        pipeline.set_progress_bar_config(disable=True)
    return found


@pytest.mark.parametrize("size", [(512, 512), (1024, 768)])
@pytest.mark.parametrize("guidance", [1.0, 4.5])
@pytest.mark.parametrize("each", [1, 2])
def test_torch_s_pictures(pipelines: dict[str, Any], size: tuple[int, int], guidance: float, each: int) -> None:
    """Through the stock call, at two sizes and batches, with guidance and without."""
    how = {"height": size[0], "width": size[1], "guidance_scale": guidance}
    wanted, found = (
        np.concatenate([painted(pipelines[backend], seed, **how) for seed in range(each)])
        for backend in ("torch", "onnx")
    )
    assert wanted.shape == found.shape
    error = np.square(wanted - found).mean(axis=(1, 2, 3)).max()
    assert -10 * np.log10(max(error, 1e-12)) > 40


@pytest.mark.parametrize(("size", "each"), [((512, 512), 1), ((1024, 768), 2)])
@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_pictures_in_int8(rounded: Path, size: tuple[int, int], each: int, guidance: float) -> None:
    """Those of the simulator in torch, at thirty decibels: a last bit can tip a number over, so not at more."""
    seen: list[int] = []

    def called(_pipeline: Any, step: int, _time: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return given

    how: dict[str, Any] = {"height": size[0], "width": size[1], "guidance_scale": guidance}
    both = []
    for backend in ("torch", "onnx"):
        pipeline = sanac.load_pipeline(rounded, "cpu", backend)
        pipeline.set_progress_bar_config(disable=True)
        both.append(np.concatenate([painted(pipeline, n, callback_on_step_end=called, **how) for n in range(each)]))
    assert len(seen) == 2 * each * 6
    errors = np.square(both[0] - both[1]).mean(axis=(1, 2, 3))
    assert -10 * np.log10(max(errors.max(), 1e-12)) > 30


def test_callbacks_are_called(pipelines: dict[str, Any]) -> None:
    seen: list[int] = []

    def called(_pipeline: Any, step: int, _time: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append(step)
        return given

    painted(pipelines["onnx"], callback_on_step_end=called)
    assert seen == list(range(6))


def test_no_weights_are_read_that_nobody_needs(pipelines: dict[str, Any]) -> None:
    parts = (pipelines["onnx"].transformer, pipelines["onnx"].text_encoder, pipelines["onnx"].vae)
    assert not any(list(part.parameters()) for part in parts)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_eight_threads_at_once(pipelines: dict[str, Any], backend: str) -> None:
    """One loaded pipeline: each request gets the picture of its own seed, whatever the others ask for."""
    pipeline = pipelines[backend]
    wanted = [painted(pipeline, seed, num_inference_steps=3 + seed % 2) for seed in range(4)]
    with ThreadPoolExecutor(8) as pool:
        asked = [
            (seed, pool.submit(painted, pipeline, seed, num_inference_steps=3 + seed % 2)) for seed in [*range(4)] * 4
        ]
        for seed, answer in asked:
            assert np.abs(answer.result() - wanted[seed]).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_minute_of_eight_threads(exported: Path, backend: str) -> None:
    """No wrong picture, digest by digest, and no memory that is taken and not given back."""
    pipeline = sanac.load_pipeline(exported, "cpu", backend)
    pipeline.set_progress_bar_config(disable=True)

    def digest(seed: int) -> str:
        how = {"num_inference_steps": 2 + seed % 3, "guidance_scale": 4.5 if seed % 2 else 1.0}
        pictures = painted(pipeline, seed, **how)
        return hashlib.sha256(np.round(255 * pictures).astype(np.uint8).tobytes()).hexdigest()

    wanted = [digest(seed) for seed in range(12)]
    start, sizes, wrong, done = time.monotonic(), [], 0, 0
    with ThreadPoolExecutor(8) as pool:
        while time.monotonic() - start < 60:
            asked = [*range(12)] * 2
            found = list(pool.map(digest, asked))
            wrong += sum(one != wanted[seed] for one, seed in zip(found, asked, strict=True))
            done += len(asked)
            sizes.append((time.monotonic() - start, anonymous()))
    print(f"{backend}: {done} requests, {wrong} wrong, {sizes[0][1] / 1e6:.0f} to {sizes[-1][1] / 1e6:.0f} MB")
    assert wrong == 0
    settled = max(size for seconds, size in sizes if seconds < 20)
    assert sizes[-1][1] < 1.05 * settled


def anonymous() -> int:
    """Bytes that this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_one_thread_at_a_time_uses_the_tokenizer() -> None:
    """How it pads is kept in it between being told and doing it."""
    inside: list[int] = []

    def tokenize(*_: Any, **__: Any) -> int:
        inside.append(1)
        time.sleep(0.01)
        found = len(inside)
        inside.pop()
        return found

    words = _Words(tokenize)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(words, "abcdefgh")) == {1}


def test_generate(sanac: Sanac, exported: Path) -> None:
    ran = sanac("generate", exported, *PROMPTS, "--steps", "3", "--backend", "onnx", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["backend"], len(ran.json["pictures"])) == ("onnx", 3)


def test_what_is_not_there_says_how_to_make_it(sanac: Sanac, exported: Path) -> None:
    for backend, hint in (("onnx", "sanac export sanac:tiny --out exported"), ("trt", "exported --trt")):
        ran = sanac("generate", "sanac:tiny", "a red circle", "--backend", backend)
        assert (ran.code, hint in ran.err) == (2, True), ran.err
    ran = sanac("generate", exported, "a red circle", "--backend", "trt")
    assert (ran.code, "--in-place --trt" in ran.err) == (2, True), ran.err
    assert not Path("pictures").exists()


def test_an_unknown_backend(exported: Path) -> None:
    with pytest.raises(UsageError, match="unknown backend 'tpu'"):
        sanac.load_pipeline(exported, "cpu", "tpu")
