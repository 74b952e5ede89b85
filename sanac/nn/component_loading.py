"""Loads components with quantized weights as modules for a stock diffusers pipeline."""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sanac.core.artifact.model import Component, Model
from sanac.core.errors import InvalidInput
from sanac.nn.loader_gate import check_config
from sanac.nn.silence_libraries import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn


def quantized_parts(model: Model, dtype: "torch.dtype", names: Container[str] | None = None) -> "dict[str, nn.Module]":
    """The quantized components of `model` (of those in `names`), loaded; the stock loader loads the others."""
    parts = (part for part in model.components if names is None or part.name in names)
    return {part.name: load_part(part, dtype) for part in parts if part.weights and part.weights.quantized}


def load_part(part: Component, dtype: "torch.dtype") -> "nn.Module":
    """Load one component: quantized weights stay packed in memory, the others are read in `dtype`."""
    module = empty_module(part)
    fill(module, part, dtype)
    return module.eval().requires_grad_(requires_grad=False)


def empty_module(part: Component) -> "nn.Module":
    """The component's module, built from its config, without memory for its weights."""
    from accelerate import init_empty_weights

    check_config(part.name, part.class_name, _plain_config(part), part.folder)
    with _failures_named(part), quiet(), init_empty_weights(include_buffers=False):
        return _empty(part)


def fill(module: "nn.Module", part: Component, dtype: "torch.dtype", prefix: str = "") -> None:
    """Give `module` the component's weights whose names begin with `prefix`; InvalidInput unless they fit."""
    import torch

    from sanac.nn.quant.layers import packed_like
    from sanac.nn.streaming import map_quantized, read_tensor

    assert part.weights is not None
    weights = part.weights
    cpu = torch.device("cpu")
    with _failures_named(part):
        for name, parts in weights.parts.items():
            if not name.startswith(prefix):
                continue
            path, _, _ = name.removeprefix(prefix).rpartition(".")
            owner, _, last = path.rpartition(".")
            parent = module.get_submodule(owner)
            setattr(parent, last, packed_like(getattr(parent, last), parts.spec, map_quantized(parts).cloned()))
        plain = {name: ref for name, ref in weights.tensors.items() if name not in weights.parts}
        state = {
            name.removeprefix(prefix): read_tensor(ref, cpu, dtype)
            for name, ref in plain.items()
            if name.startswith(prefix)
        }
        wrong = module.load_state_dict(state, strict=False, assign=True)
    missing = [name for name in wrong.missing_keys if not name.endswith((".stored", ".scale", ".smooth", ".static"))]
    if missing or wrong.unexpected_keys:
        problems = [f"{name} is missing" for name in missing] + [f"{name} is unknown" for name in wrong.unexpected_keys]
        raise InvalidInput(
            f"the weights in {part.folder} don't fit a {part.class_name}", why=problems[0], problems=problems
        )


@contextmanager
def _failures_named(part: Component) -> Iterator[None]:
    """Turn errors of foreign classes into InvalidInput that names the component."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
        raise InvalidInput(f"the {part.name} can't be loaded", why=str(error).splitlines()[0][:300]) from error


def _plain_config(part: Component) -> dict[str, Any]:
    return {name: value for name, value in part.config.items() if name != "quantization_config"}


def _empty(part: Component) -> "nn.Module":
    """The component's module, built from its config without weights."""
    with quiet():
        import diffusers
        import transformers

    config = _plain_config(part)
    if hasattr(diffusers, part.class_name):
        found: nn.Module = getattr(diffusers, part.class_name).from_config(config)
        return found
    kind = getattr(transformers, part.class_name)
    built: nn.Module = kind(kind.config_class.from_dict(config))
    return built
