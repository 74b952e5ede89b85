"""Traces the text encoder and the autoencoder: their original classes, without weights, with dynamic sizes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram

from sanac.export.tracing import SAME, Traced, without_storage
from sanac.nn.silence_libraries import silent

_LONGEST, _MOST, _WIDEST = 8192, 1024, 4096
_WIDE = 1024  # pixels: a multiple of every autoencoder's downscaling factor
_EPSILON = 1e-15


class _TextEncoder(nn.Module):  # type: ignore[misc]
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
        return found


class _Decoder(nn.Module):  # type: ignore[misc]
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, latent_sample: Tensor) -> Tensor:
        found: Tensor = self.model.decoder(latent_sample)
        return found


class _Encoder(nn.Module):  # type: ignore[misc]
    step = 1  # sides of the image are multiples of this

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor) -> Tensor:
        found: Tensor = self.model.encoder(_of_multiples(sample, self.step))
        return found


def _of_multiples(image: Tensor, step: int) -> Tensor:
    """The image, with sides that tracing knows to be multiples of `step`: every halving is then exact.

    Otherwise each halving leaves a rounded division in all sizes after it, which tracing reasons about for seconds.
    """
    if step == 1:
        return image
    sides = [size // step * step for size in image.shape[2:]]
    return torch.onnx.ops.symbolic(SAME, (image,), dtype=image.dtype, shape=(*image.shape[:2], *sides), version=1)


def _attention(attention: Any, picture: Tensor) -> Tensor:
    """The autoencoder's multiscale linear attention; diffusers' quadratic form for small images is equivalent.

    Sums are in fp32. The divisor is clamped, as graph optimizers would remove the addition of so small an epsilon.
    """
    rows, columns = picture.shape[-2:]
    last = picture.movedim(1, -1)
    three = torch.cat([part(last) for part in (attention.to_q, attention.to_k, attention.to_v)], dim=-1).movedim(-1, 1)
    scales = torch.cat([three, *(scale(three) for scale in attention.to_qkv_multiscale)], dim=1).float()
    heads = scales.unflatten(1, (-1, 3 * attention.attention_head_dim)).flatten(3)
    query, key, value = heads.chunk(3, dim=2)
    ones = F.pad(value, (0, 0, 0, 1), mode="constant", value=1.0)
    mixed = ones @ F.relu(key).transpose(-1, -2) @ F.relu(query)
    mixed = mixed[:, :, :-1] / mixed[:, :, -1:].clamp(min=_EPSILON)
    flat = mixed.to(picture.dtype).flatten(1, 2).unflatten(2, (rows, columns))
    result = attention.to_out(flat.movedim(1, -1))
    if attention.norm_type == "rms_norm":
        result = attention.norm_out(result).movedim(-1, 1)
    else:
        result = attention.norm_out(result.movedim(-1, 1))
    return result + picture if attention.residual_connection else result


def text_encoder(folder: Path, dtype: torch.dtype) -> Traced:
    """Trace the text encoder: token ids and mask to the last hidden state."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder)
    with init_empty_weights(include_buffers=False):
        model = AutoModel.from_config(config, dtype=dtype, attn_implementation="eager")
    axes = {0: "batch", 1: "sequence_length"}
    sizes = {0: Dim("batch", min=1, max=_MOST), 1: Dim("sequence_length", min=1, max=_LONGEST)}
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    net = without_storage(_TextEncoder(model), dtype, mode)
    with mode:
        inputs = (torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64))
    program = torch.export.export(net, inputs, dynamic_shapes=(sizes, sizes))
    return Traced(program, ("input_ids", "attention_mask"), (axes, axes), "last_hidden_state", "model.")


def decoder(config: Mapping[str, Any], dtype: torch.dtype) -> Traced:
    """Trace the decoder: unscaled latents to the image."""
    program, _ = _autoencoded(_Decoder, config, dtype, int(config["latent_channels"]))
    axes = {0: "batch", 2: "rows", 3: "columns"}
    return Traced(program, ("latent_sample",), (axes,), "sample", "model.")


def encoder(config: Mapping[str, Any], dtype: torch.dtype) -> Traced:
    """Trace the encoder: an image to its unscaled latents."""
    program, step = _autoencoded(_Encoder, config, dtype, int(config["in_channels"]))
    axes = {0: "batch", 2: f"{step}*rows", 3: f"{step}*columns"}
    return Traced(program, ("sample",), (axes,), "latent_sample", "model.")


def _autoencoded(
    wrapper: type[nn.Module], config: Mapping[str, Any], dtype: torch.dtype, channels: int
) -> tuple[ExportedProgram, int]:
    """The traced program, and the number that the sides of its input must be multiples of."""
    with silent():
        from diffusers import AutoencoderDC
        from diffusers.models.attention_processor import SanaMultiscaleLinearAttention

    with init_empty_weights(include_buffers=False):
        model = AutoencoderDC.from_config(dict(config))
    for part in model.modules():
        if isinstance(part, SanaMultiscaleLinearAttention):
            part.processor = _attention
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    net = without_storage(wrapper(model), dtype, mode)
    with mode, torch.no_grad():
        large = net(torch.empty(1, channels, _WIDE, _WIDE, dtype=dtype))
        step = net.step = max(1, _WIDE // large.shape[-1])
        inputs = torch.empty(2, channels, 6 * step, 10 * step, dtype=dtype)
    sides = [step * Dim(name, min=1, max=_WIDEST) for name in ("rows", "columns")]
    shapes = ({0: Dim("batch", min=1, max=_MOST), 2: sides[0], 3: sides[1]},)
    return torch.export.export(net, (inputs,), dynamic_shapes=shapes), step
