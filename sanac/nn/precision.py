"""The precision of computing with a model: bf16 or TF32 on GPUs, fp32 on processors; sums are in fp32 or fp64 anyway.

Scores, velocity errors and Gram matrices are accumulated in fp32 or fp64 whatever the precision of the products is.
"""

from typing import Literal

import torch

from sanac.core.artifact.model import Model
from sanac.core.errors import MissingResource
from sanac.nn.device import capability
from sanac.nn.streaming import Blocks

Precision = Literal["bf16", "tf32", "fp32"]
_AMPERE = 80  # the first generation with bf16 and TF32


def choose_precision(requested: str | None, device: str, model: Model) -> Precision:
    """The precision to compute in: `requested`, else the checkpoint's bf16 or TF32 on a GPU, else fp32."""
    on_gpu = torch.device(device).type == "cuda"
    recent = on_gpu and (capability() or 0) >= _AMPERE
    if requested == "tf32" and not recent:
        raise MissingResource(
            "--precision tf32 requires a GPU of the Ampere generation or later",
            why=f"the device is {device}",
            hint="--precision fp32",
        )
    if requested in {"bf16", "tf32", "fp32"}:
        return requested  # type: ignore[return-value]
    if not recent:
        return "fp32"
    refs = list(model.weights)
    halves = sum(ref.count for ref in refs if ref.dtype == "BF16")
    return "bf16" if 2 * halves > sum(ref.count for ref in refs) or model.weights.parts else "tf32"


def training_precision(requested: str | None, device: str) -> str:
    """The precision of training: `requested`, else bf16 on GPUs that have it, else fp32."""
    recent = torch.device(device).type == "cuda" and (capability() or 0) >= _AMPERE
    return requested or ("bf16" if recent else "fp32")


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of weights and hidden states."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def bytes_of(precision: str) -> int:
    """Bytes of one weight or one number of a hidden state."""
    return 2 if precision == "bf16" else 4


def open_blocks(model: Model, device: str | torch.device, precision: str, *, resident: bool = False) -> Blocks:
    """The model's blocks in this precision; sets torch's TF32 switch accordingly."""
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"  # 1x1 convolutions
    return Blocks(model, torch.device(device), dtype_of(precision), resident=resident)


def result_settings(precision: str) -> dict[str, str]:
    """The entry of content keys; none for fp32, as results made before there was a choice have none."""
    return {} if precision == "fp32" else {"precision": precision}
