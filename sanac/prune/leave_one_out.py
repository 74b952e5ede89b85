"""What each block is worth to the prediction: the error of the guided velocity when it alone is left out."""

import torch
from torch import Tensor

from sanac.nn.calibration.states import CalibrationStates, SweepBatch


def leave_one_out(states: CalibrationStates, sweep_batch: SweepBatch) -> Tensor:
    """|v_without_i - v|^2 / |v|^2, its mean over the moments: (blocks, prompts)."""
    blocks = range(len(states.blocks))
    choices = [tuple(index for index in blocks if index != dropped) for dropped in blocks]
    errors = states.errors(choices, sweep_batch)
    return torch.stack([errors[kept].mean(dim=0) for kept in choices])
