"""Opens a stock diffusers pipeline safely and generates images with it, one seed per image."""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sanac.core.artifact.completeness import check_complete
from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.schedule import Schedule
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, MissingResource, UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.nn import stock_loading
from sanac.nn.device import SIDES, pick_device, shrinkage
from sanac.nn.generation import GenerationSettings
from sanac.nn.guidance import SPRINT_STEPS, default_steps, guidance_of
from sanac.nn.stepwise import Pictures

if TYPE_CHECKING:
    import torch
    from diffusers import SanaPipeline, SanaTransformer2DModel

    from sanac.runtime.onnx_session import OnnxRunner

NO_ROOM = "smaller images or batches (--size, --batch), --tile 512, or a quantized model"


@dataclass(frozen=True)
class DiffusionGenerator:
    """An image generator around an opened diffusers pipeline."""

    pipeline: "SanaPipeline"
    name: str
    device: str

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: GenerationSettings,
        reporter: Reporter = NULL_REPORTER,
    ) -> Iterator[Pictures]:
        """Yield batches of images; the noise of each image depends on its own seed only."""
        import torch

        from sanac.runtime.pipeline_parts import tiled_decoder

        for prompt in prompts:
            if not prompt.strip():
                raise UsageError("a prompt is empty", hint="describe the image in every prompt")
        settings = self.call_settings(prompts, sampling)
        for start in range(0, len(prompts), sampling.batch):
            part = list(prompts[start : start + sampling.batch])
            noises = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + sampling.batch]]
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # NaN converted to bytes; checked below
                with tiled_decoder(self.pipeline, sampling.tile):
                    images = self._generate_batch(part, noises, settings)
            if not np.isfinite(images).all():
                raise InvalidInput(
                    f"{self.name} generates NaN",
                    why=f"in the batch of {part[0]!r}",
                    hint=f"sanac inspect {self.name} --scan",
                )
            yield np.round(images * 255).astype(np.uint8)
            reporter.advance(len(part))

    def call_settings(self, prompts: Sequence[str], sampling: GenerationSettings) -> dict[str, Any]:
        """Keyword arguments of the pipeline's call."""
        width, height = self._as_the_pipeline_counts(sampling)
        found: dict[str, Any] = {"num_inference_steps": sampling.steps, "guidance_scale": sampling.guidance}
        found |= {"width": width, "height": height, "max_sequence_length": self._length(prompts)}
        if self.sprint and sampling.steps != SPRINT_STEPS:
            found["intermediate_timesteps"] = None  # the pipeline's default only fits two steps
        return found

    def _generate_batch(
        self, prompts: list[str], noises: list[Any], settings: dict[str, Any]
    ) -> NDArray[np.floating[Any]]:
        """Images of one batch with values from 0 to 1; MissingResource if they don't fit into memory."""
        import torch

        how = {"use_resolution_binning": False, "output_type": "np", **settings}
        try:
            found: NDArray[np.floating[Any]] = self.pipeline(prompt=prompts, generator=noises, **how).images
        except (RuntimeError, UnboundLocalError) as error:  # UnboundLocalError: diffusers swallows an OOM in decoding
            full = isinstance(error, torch.OutOfMemoryError | UnboundLocalError) or "allocate memory" in str(error)
            if not full:
                raise
            size = f"{len(prompts)} of {settings['width']}x{settings['height']}"
            raise MissingResource(f"{self.device} ran out of memory generating {size}", hint=NO_ROOM) from error
        return found

    @property
    def sprint(self) -> bool:
        """Whether this is SANA-Sprint's pipeline, whose transformer takes guidance as an input."""
        return bool(self.pipeline.transformer.config.guidance_embeds)

    def _length(self, prompts: Sequence[str]) -> int:
        """Token length of the longest prompt; padding to the pipeline's 300 tokens would only cost time."""
        tokens = self.pipeline.tokenizer([prompt.lower().strip() for prompt in prompts])["input_ids"]
        return min(300, max(2, *map(len, tokens)) + 1)

    def _as_the_pipeline_counts(self, sampling: GenerationSettings) -> tuple[int, int]:
        """Width and height as the pipeline counts them, not always pixels: it assumes that every stage resamples."""
        factor = self.pipeline.vae_scale_factor
        side = SIDES.get(self.pipeline.transformer.config.sample_size, 1024)
        if sampling.size is None:
            return side, side
        real = shrinkage(self.pipeline.vae.config.encoder_layers_per_block)
        if any(edge % real for edge in sampling.size):
            nearest = "x".join(str(max(real, round(edge / real) * real)) for edge in sampling.size)
            raise UsageError(
                f"{sampling.size[0]}x{sampling.size[1]} is not a multiple of {real}", hint=f"--size {nearest}"
            )
        return sampling.size[0] // real * factor, sampling.size[1] // real * factor

    def follow(self, schedule: Schedule | None, depths: "Mapping[int, OnnxRunner] | None" = None) -> None:
        """Follow a schedule in place of any other; None: run the whole model at every step.

        `depths`: graphs or engines by depth, where the transformer is one; else its blocks are left out by themselves.
        """
        from sanac.runtime.scheduled import follow, graph_views, unfollow, views_of

        unfollow(self.pipeline)
        if schedule is None:
            return
        transformer = self.pipeline.transformer
        views = views_of(transformer, schedule) if depths is None else graph_views(transformer, schedule, depths)
        follow(self.pipeline, schedule, views, guidance_of(transformer.config).timesteps)

    def load_weights(self, weights: "Mapping[str, torch.Tensor]") -> None:
        """Replace some weights of the transformer, by their names in it."""
        transformer = self.pipeline.transformer
        transformer.load_state_dict(
            {name: value.to(transformer.dtype) for name, value in weights.items()}, strict=False
        )

    def device_warnings(self) -> list[str]:
        """Warnings about this pipeline on this device."""
        import torch

        from sanac.nn.quant.layers import in_floats

        if not isinstance(self.pipeline.transformer, torch.nn.Module):
            return []
        dtypes = in_floats(self.pipeline.transformer, torch.device(self.device))
        return [
            f"{self.device} can't multiply in {dtype}: those layers run in floats, without a speedup"
            for dtype in dtypes
        ]

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """Words of the prompts that the tokenizer maps to the unknown token."""
        tokenizer = self.pipeline.tokenizer
        words = dict.fromkeys(word for prompt in prompts for word in re.findall(r"\w+", prompt.lower()))
        unknown = tokenizer.unk_token_id
        return [word for word in words if unknown is not None and unknown in tokenizer(word)["input_ids"]]


def sampling_of(
    model: Model,
    steps: int | None,
    guidance: float,
    reporter: Reporter = NULL_REPORTER,
    *,
    guidance_typed: bool = False,
    **how: Any,
) -> GenerationSettings:
    """Sampler settings for a model: steps and guidance are those of its schedule where they were not typed.

    A warning says where other steps were typed; UsageError for guidance that the model can't give.
    """
    schedule = model.schedule
    if schedule is None:
        return GenerationSettings(steps or default_steps(model), guidance, **how)
    if steps and (warning := schedule.steps_warning(steps)):
        reporter.warn(warning)
    guidance = schedule.guidance(guidance, typed=guidance_typed)
    return GenerationSettings(steps or schedule.steps, guidance, **how)


def open_generator(
    model: Model,
    device: str | None = None,
    backend: str = "torch",
    reporter: Reporter = NULL_REPORTER,
    *,
    scheduled: bool = True,
) -> DiffusionGenerator:
    """Open a model's pipeline on a device; runs no code or pickle from its folder and downloads nothing.

    `scheduled`: whether it follows the model's schedule, if there is one.
    """
    import torch

    from sanac.runtime.backends import install_runners, open_depths, open_parts

    check_complete(model)
    where = pick_device(device)
    runners = open_parts(model, backend, where, reporter)
    sprint = model.architecture.guidance
    pipeline = stock_loading.load_pipeline(model, dict.fromkeys(runners), _dtype(model, where), sprint=sprint)
    install_runners(pipeline, runners, model)
    pipeline.set_progress_bar_config(disable=True)
    try:
        pipeline.to(where)
    except torch.cuda.OutOfMemoryError as error:
        raise MissingResource(f"{model.located.name} doesn't fit on {where}", hint="--device cpu") from error
    generator = DiffusionGenerator(pipeline, model.located.name, where)
    if scheduled and model.schedule:
        generator.follow(model.schedule, open_depths(model, backend, where, reporter) if runners else None)
    return generator


def load_pipeline(path: str | Path, device: str | None = None, backend: str = "torch") -> "SanaPipeline":
    """Load a stock diffusers pipeline from any model that sanac supports, quantized or not: `sanac.load_pipeline`.

    `path` is a folder, a hub id in the local cache or `sanac:tiny`; runs no code from it and downloads nothing. Other
    backends (onnx, onnx-trt, onnx-rtx, trt) run the exported graphs or engines. Several threads may call the pipeline.
    """
    from sanac.runtime.backends import BACKENDS, thread_safe

    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}", hint=f"one of {', '.join(BACKENDS)}")
    return thread_safe(open_generator(open_model(locate(str(path))), device, backend).pipeline)


def load_transformer(path: str | Path, device: str | None = None) -> "SanaTransformer2DModel":
    """Load only the transformer as stock diffusers' class, for folders without a pipeline: `sanac.load_transformer`."""
    return open_transformer(open_model(locate(str(path))), pick_device(device))


def open_transformer(model: Model, where: str) -> "SanaTransformer2DModel":
    """Load the transformer of an opened model as stock diffusers' class on the device `where`."""
    return stock_loading.load_component(model, "transformer", _dtype(model, where)).to(where)


def _dtype(model: Model, device: str) -> "torch.dtype":
    """Compute dtype: the checkpoint's on a GPU; fp32 on a CPU, where half precision is slow or unsupported."""
    import torch

    dtypes = {"BF16": torch.bfloat16, "F16": torch.float16}
    quantized = model.weights.quantized
    dtype = quantized.dtype if quantized else model.weights.tensors["proj_out.weight"].dtype
    return torch.float32 if device == "cpu" else dtypes.get(dtype, torch.float32)
