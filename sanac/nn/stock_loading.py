"""The only place where stock loaders of diffusers and transformers read a model's folder, behind `loader_gate`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sanac.core.artifact.model import Model
from sanac.core.errors import InvalidInput
from sanac.nn.component_loading import quantized_parts
from sanac.nn.loader_gate import check_loadable
from sanac.nn.silence_libraries import quiet

if TYPE_CHECKING:
    import torch
    from torch import nn

_FAILURES = (OSError, ValueError, TypeError, KeyError, RuntimeError)  # JSON errors are ValueErrors


def load_pipeline(
    model: Model, given: Mapping[str, Any], dtype: "torch.dtype | None" = None, *, sprint: bool = False
) -> Any:
    """The stock pipeline of a model; components in `given` are taken from there.

    Without `dtype`, weights stay in that of the checkpoint, and quantized ones are opened in fp32.
    """
    check_loadable(model)
    with quiet():
        import torch
        from diffusers import SanaPipeline, SanaSprintPipeline

        names = {part.name for part in model.components} - given.keys()
        parts = {**given, **quantized_parts(model, dtype or torch.float32, names)}
        how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
        how |= {"torch_dtype": dtype} if dtype else {}
        try:
            return (SanaSprintPipeline if sprint else SanaPipeline).from_pretrained(model.located.path, **parts, **how)
        except _FAILURES as error:
            raise _unusable(model, error) from error


def load_component(model: Model, name: str, dtype: "torch.dtype") -> "nn.Module":
    """A component with weights as its stock class: the transformer, the autoencoder or the text encoder."""
    check_loadable(model, {name})
    part = next(part for part in model.components if part.name == name)
    quantized = quantized_parts(model, dtype, {name})
    if quantized:
        return quantized[name]
    how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    with quiet():
        from diffusers import AutoencoderDC, SanaTransformer2DModel
        from transformers import AutoModel

        try:
            if name == "text_encoder":
                loaded = AutoModel.from_pretrained(part.folder, dtype=dtype, **how)
            else:
                kind = SanaTransformer2DModel if name == "transformer" else AutoencoderDC
                loaded = kind.from_pretrained(part.folder, torch_dtype=dtype, **how)
        except _FAILURES as error:
            raise _unusable(model, error) from error
    module: nn.Module = loaded.eval()
    return module


def component_config(model: Model, name: str) -> Any:
    """The config object of a component, as its stock class builds it, without weights."""
    from accelerate import init_empty_weights

    check_loadable(model, {name})
    part = next(part for part in model.components if part.name == name)
    with quiet(), init_empty_weights():
        from diffusers import AutoencoderDC, SanaTransformer2DModel
        from transformers import AutoConfig

        try:
            if name == "text_encoder":
                return AutoConfig.from_pretrained(part.folder)
            kind = SanaTransformer2DModel if name == "transformer" else AutoencoderDC
            return kind.from_config({k: v for k, v in part.config.items() if k != "quantization_config"}).config
        except _FAILURES as error:
            raise InvalidInput(
                f"the config in {part.folder} can't be used", why=str(error).splitlines()[0][:300]
            ) from error


def _unusable(model: Model, error: Exception) -> InvalidInput:
    why = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return InvalidInput(
        f"diffusers can't open {model.located.name}", why=why, hint=f"sanac inspect {model.located.path}"
    )
