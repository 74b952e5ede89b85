"""What measuring a model needs to know beside its transformer: its sampler, its picture size, its words."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sanac.core.artifact.model import Component, Model
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.family.architecture import split_block
from sanac.nn.device import SIDES, shrinkage
from sanac.nn.streaming import Blocks, refuse_loras

_ENCODED = 600  # tokens: 300 of a caption, and the instruction that the pipeline puts in front of it
_SANA = {  # the sampler that SANA-1.5 ships with, where a transformer comes alone
    "_class_name": "DPMSolverMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
    "algorithm_type": "dpmsolver++",
}


def _part(model: Model, name: str) -> Component | None:
    return next((part for part in model.others if part.name == name), None)


def scheduler_of(model: Model) -> Mapping[str, Any]:
    """The config of the pipeline's sampler; SANA-1.5's own for a transformer alone."""
    part = _part(model, "scheduler")
    if part is None:
        return _SANA
    path = part.folder / "scheduler_config.json"
    try:  # diffusers writes -Infinity where a bound has its default, none
        found = json.loads(path.read_bytes(), parse_constant=lambda _: None)
        return {name: value for name, value in found.items() if value is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{path} is not a sampler's config", why=str(error)) from error


def latent_side(model: Model) -> int:
    """The side of the latents that the pipeline paints by default."""
    config = model.transformer.config or model.architecture.config()
    size = config.get("sample_size", 32)
    vae = _part(model, "vae")
    channels = vae.config.get("encoder_block_out_channels") if vae else None
    if not isinstance(channels, list) or size not in SIDES:
        return int(size)
    return max(1, SIDES[size] >> (len(channels) - 1))


def native(model: Model) -> tuple[int, int]:
    """Pixels that become one latent, and the side of the pictures that the model was made for."""
    vae = _part(model, "vae")
    layers = vae.config.get("encoder_layers_per_block") if vae else None
    step = shrinkage(layers) if isinstance(layers, list) and layers else 32  # SANA's own
    return step, step * latent_side(model)


def vocabulary_of(model: Model) -> Sequence[str]:
    """The words of a word-level tokenizer; none for those that spell everything."""
    part = _part(model, "tokenizer")
    path = part.folder / "tokenizer.json" if part else None
    if path is None or not path.is_file() or path.stat().st_size > 1_000_000:
        return ()
    try:
        found = json.loads(path.read_bytes())["model"]
        return tuple(found["vocab"]) if found["type"] == "WordLevel" else ()
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path} is not a tokenizer", why=str(error)) from error


def sampler(config: Mapping[str, Any]) -> Any:
    """The model's own sampler, by its config; only those that diffusers brings along."""
    import diffusers

    name = str(config.get("_class_name", ""))
    if name not in {"DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"}:
        raise UsageError(
            f"the sampler {name!r} is not supported here", hint="use a model with DPMSolverMultistepScheduler"
        )
    if str(config.get("algorithm_type", "")).startswith("sde") or config.get("stochastic_sampling"):
        raise UsageError(
            "the model's sampler adds noise of its own on the way", why="nothing measured on it could be repeated"
        )
    try:
        found = getattr(diffusers, name).from_config(dict(config))
        found.set_timesteps(2)
    except (ValueError, TypeError, NotImplementedError, AttributeError, IndexError, RuntimeError) as error:
        raise InvalidInput("the sampler's config makes no sampler", why=str(error)) from error
    return found


def check_computable(model: Model) -> None:
    """Models that our forward would compute as something else are refused."""
    config = model.transformer.config
    if config.get("interpolation_scale") is not None:
        why = "its config sets interpolation_scale: positions are added to the latents, as for 2K and 4K pictures"
        raise UsageError(f"{model.located.name} can't be measured yet", why=why, hint="--scores FILE or --keep")
    if config.get("guidance_embeds"):
        why = "it is distilled with guidance as an input"
        raise UsageError(f"{model.located.name} can't be measured yet", why=why, hint="--scores FILE or --keep")
    refuse_loras(model)


def scheduler_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a sampler's config, what decides where trajectories pass."""
    return {key: value for key, value in sorted(config.items()) if not key.startswith("_")}


def forward_seconds(model: Model, tokens: float, device: str, *, more: float = 0.0, readings: float = 1.0) -> float:
    """How long so many tokens take through all blocks, and `more` operations: a trial of the machine tells.

    Weights are read while it works, so many times: what takes longer counts.
    """
    where = torch.device(device)
    parameters = sum(ref.count for ref in model.weights if split_block(ref.name))
    forwards = 2.0 * parameters * tokens / _speed(where)
    return max(forwards, readings * _reading(model, where)) + more / _speed(where)


def encoding_operations(model: Model, prompts: int) -> float:
    """What the model's text encoder multiplies and adds for so many prompts, padded as its pipeline does."""
    part = _part(model, "text_encoder")
    counts = [ref.count for ref in part.weights or () if "embed_tokens" not in ref.name] if part else []
    return 2.0 * sum(counts) * _ENCODED * prompts


def _reading(model: Model, device: torch.device) -> float:
    """Seconds that reading all blocks takes: one is tried."""
    since = time.perf_counter()
    Blocks(model, device, torch.float32).block(0)
    return model.architecture.blocks * (time.perf_counter() - since)


def _speed(device: torch.device) -> float:
    """Operations a second that a matrix product reaches, the best of a few; a forward reaches about half of it."""
    one, other = torch.randn(1024, 1024, device=device), torch.randn(1024, 1024, device=device)
    best = float("inf")
    for _ in range(4):
        since = time.perf_counter()
        float((one @ other)[0, 0])
        best = min(best, time.perf_counter() - since)
    return 0.5 * 2 * 1024**3 / best
