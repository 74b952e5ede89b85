"""The memory that a job may use where the user sets no limit."""

import torch

from sanac.nn.calibration.settings import LIMIT
from sanac.nn.device import free_memory

_ON_GPU = 0.8  # of the free memory of a GPU


def default_limit(device: str) -> int:
    """Bytes that a job uses by default: 2 GB on a CPU, whatever is free; most of what is free on a GPU."""
    if torch.device(device).type != "cuda":
        return LIMIT
    return max(LIMIT, int(_ON_GPU * free_memory(device)))
