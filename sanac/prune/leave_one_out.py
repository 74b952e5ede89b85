"""Leave-one-out score of each block: the error of the guided velocity when only that block is dropped."""

import torch
from torch import Tensor

from sanac.nn.calibration.states import CalibrationStates, SweepBatch


def leave_one_out(states: CalibrationStates, sweep_batch: SweepBatch) -> Tensor:
    """|v_without_i - v|^2 / |v|^2, averaged over the sampled steps: (blocks, prompts)."""
    blocks = range(len(states.blocks))
    choices = [tuple(index for index in blocks if index != dropped) for dropped in blocks]
    errors = states.errors(choices, sweep_batch)
    return torch.stack([errors[kept].mean(dim=0) for kept in choices])
