"""Settings read from a pipeline's other components: scheduler, image size, vocabulary; and time estimates."""

from collections.abc import Mapping, Sequence
from typing import Any

from sanac.core import json_files
from sanac.core.artifact.model import Component, Model
from sanac.core.artifact.schedule import WHOLE
from sanac.core.artifact.token_model import AnyModel
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.family.architecture import split_block
from sanac.nn.device import SIDES, shrinkage
from sanac.nn.device_speed import reading_seconds, speed_of
from sanac.nn.guidance import guidance_of
from sanac.nn.samplers import EULER, SPRINT, sampler_of
from sanac.nn.silence_libraries import silent
from sanac.nn.streaming import refuse_loras

_ENCODED = 600  # tokens: 300 of a caption, and the instruction that the pipeline prepends
_SANA = {  # SANA-1.5's scheduler, used for a transformer without a pipeline
    "_class_name": "DPMSolverMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
    "algorithm_type": "dpmsolver++",
}
_SPRINT = {"_class_name": SPRINT, "prediction_type": "trigflow", "sigma_data": 0.5}  # SANA-Sprint's


def _part(model: AnyModel, name: str) -> Component | None:
    return next((part for part in model.components if part.name == name), None)


def scheduler_of(model: Model) -> Mapping[str, Any]:
    """The config of the pipeline's scheduler; SANA-1.5's or SANA-Sprint's for a transformer without a pipeline."""
    part = _part(model, "scheduler")
    if part is None:
        return _SPRINT if model.architecture.guidance else _SANA
    path = part.folder / "scheduler_config.json"
    found = json_files.read_object(path, constants=True)
    return {name: value for name, value in found.items() if value is not None}


def latent_side(model: Model) -> int:
    """Default side of the pipeline's latents."""
    config = model.transformer.config or model.architecture.config()
    size = config.get("sample_size", 32)
    vae = _part(model, "vae")
    channels = vae.config.get("encoder_block_out_channels") if vae else None
    if not isinstance(channels, list) or size not in SIDES:
        return int(size)
    return max(1, SIDES[size] >> (len(channels) - 1))


def native(model: Model) -> tuple[int, int]:
    """(pixels per latent, per side; native image side in pixels)."""
    vae = _part(model, "vae")
    layers = vae.config.get("encoder_layers_per_block") if vae else None
    step = shrinkage(layers) if isinstance(layers, list) and layers else 32  # the factor of SANA's DC-AE
    return step, step * latent_side(model)


def vocabulary_of(model: AnyModel) -> Sequence[str]:
    """The vocabulary of a word-level tokenizer; () for subword tokenizers."""
    part = _part(model, "tokenizer")
    path = part.folder / "tokenizer.json" if part else None
    if path is None or not path.is_file() or path.stat().st_size > 1_000_000:
        return ()
    try:
        found = json_files.read_object(path)["model"]
        return tuple(found["vocab"]) if found["type"] == "WordLevel" else ()
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is not a tokenizer", why=str(error)) from error


def sampler(config: Mapping[str, Any]) -> Any:
    """The diffusers scheduler built from `config`; UsageError if its class or settings aren't supported."""
    with silent():
        import diffusers

    name = str(config.get("_class_name", ""))
    if name not in {"DPMSolverMultistepScheduler", EULER, SPRINT}:
        raise UsageError(
            f"the scheduler {name!r} is not supported", hint="use a model with DPMSolverMultistepScheduler"
        )
    if name == SPRINT and config.get("prediction_type", "trigflow") != "trigflow":
        raise InvalidInput("the scheduler can't be built from its config", why="SCMScheduler only predicts trigflow")
    if str(config.get("algorithm_type", "")).startswith("sde") or config.get("stochastic_sampling"):
        raise UsageError(
            "stochastic schedulers are not supported",
            why="they add noise at each step, so results couldn't be reproduced",
        )
    try:
        found = getattr(diffusers, name).from_config(dict(config))
        found.set_timesteps(2)
    except (ValueError, TypeError, NotImplementedError, AttributeError, IndexError, RuntimeError) as error:
        raise InvalidInput("the scheduler can't be built from its config", why=str(error)) from error
    return found


def noise_levels(model: Model, steps: int) -> tuple[int, ...]:
    """The noise level of each of `steps` sampler steps, in thousandths, as the model's pipeline takes them."""
    import torch

    config = model.transformer.config or model.architecture.config()
    found = sampler_of(sampler(scheduler_of(model)), config, steps, (), torch.device("cpu"))
    most = guidance_of(config).timesteps
    return tuple(min(WHOLE, round(float(found.timestep(step)) / most * WHOLE)) for step in range(len(found)))


def check_computable(model: Model) -> None:
    """UsageError for models whose scheduler isn't made for them, and for unmerged LoRAs."""
    scheduler = str(scheduler_of(model).get("_class_name", ""))
    if model.architecture.guidance != (scheduler == SPRINT):
        takes = "takes" if model.architecture.guidance else "doesn't take"
        raise UsageError(
            f"{model.located.name} can't be sampled with {scheduler}",
            why=f"its transformer {takes} guidance as an input, and {SPRINT} is for those that do",
            hint="use the scheduler of the pipeline that the transformer was released with",
        )
    refuse_loras(model)


def scheduler_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler settings that determine trajectories: its config without private keys."""
    return {key: value for key, value in sorted(config.items()) if not key.startswith("_")}


def forward_seconds(
    model: Model, tokens: float, device: str, precision: str = "fp32", *, more: float = 0.0, readings: float = 1.0
) -> float:
    """Estimated seconds to pass `tokens` through all blocks and do `more` operations, from a short measurement.

    The weights are read `readings` times meanwhile: the longer of computing and reading counts.
    """
    speed = speed_of(model, device, precision).operations
    parameters = sum(ref.count for ref in model.weights if split_block(ref.name))
    forwards = 2.0 * parameters * tokens / speed
    reading = readings * reading_seconds(model, device, precision) if readings else 0.0
    return max(forwards, reading) + more / speed


def encoding_operations(model: Model, prompts: int) -> float:
    """Operations of the text encoder for `prompts` prompts, padded as the pipeline pads them."""
    part = _part(model, "text_encoder")
    counts = [ref.count for ref in part.weights or () if "embed_tokens" not in ref.name] if part else []
    return 2.0 * sum(counts) * _ENCODED * prompts
