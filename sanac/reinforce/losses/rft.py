"""RFT: train on what the judge accepted. The baseline that every other loss has to beat at equal samples and steps."""

from torch import Tensor

from sanac.reinforce.losses.prediction import Prediction


def rft(policy: Prediction) -> Tensor:
    """The mean error of accepted samples."""
    return policy.error.mean()
