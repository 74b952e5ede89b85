"""The student: diffusers' transformer with weights from the checkpoint, and its trained weights written back."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sanac.core.artifact.model import Model
from sanac.core.confined import AnyPath
from sanac.core.errors import InvalidInput
from sanac.nn.loader_gate import check_loadable
from sanac.nn.save_tensors import save_tensors
from sanac.nn.silence_libraries import quiet
from sanac.nn.streaming import DTYPES, read_tensor, refuse_loras


def open_student(model: Model, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A trainable `SanaTransformer2DModel` with the model's weights, without random initialisation."""
    with quiet():
        from diffusers import SanaTransformer2DModel

    refuse_loras(model)
    check_loadable(model)
    config = dict(model.transformer.config or model.architecture.config())
    try:
        with torch.device("meta"):
            transformer = SanaTransformer2DModel.from_config(config)
        tensors = {ref.name: read_tensor(ref, device, dtype) for ref in model.weights}
        transformer.load_state_dict(tensors, strict=True, assign=True)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise InvalidInput(
            f"diffusers can't build {model.located.name}", why=str(error).splitlines()[0][:300]
        ) from error
    found: nn.Module = transformer.train().requires_grad_(requires_grad=True)
    return found


def freeze(student: nn.Module, first: int) -> None:
    """Freeze the first blocks, and what they and all others get: the embeddings of latents, timestep and caption.

    Nothing before block `first` then keeps activations for the backward pass.
    """
    if not first:
        return
    for name, module in student.named_children():
        if name not in {"transformer_blocks", "norm_out", "proj_out"}:
            module.requires_grad_(requires_grad=False)
    for block in list(student.transformer_blocks)[:first]:
        block.requires_grad_(requires_grad=False)


def save_weights(weights: Mapping[str, Tensor], model: Model, file: AnyPath) -> None:
    """Save trained weights under the model's tensor names, in the dtypes of its checkpoint."""
    refs = model.weights.tensors
    missing = refs.keys() ^ weights.keys()
    assert not missing, sorted(missing)[:3]
    stored = {name: weights[name].detach().to(DTYPES[ref.dtype]) for name, ref in refs.items()}
    for name, tensor in stored.items():
        if not torch.isfinite(tensor).all():
            raise InvalidInput(f"training made {name} NaN or infinite", hint="use a lower --learning-rate")
    save_tensors(stored, file)
