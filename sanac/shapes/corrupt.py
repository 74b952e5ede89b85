"""Image corruptions typical of generators (blur, noise, colour shifts), for testing the detector."""

import numpy as np
from numpy.typing import NDArray

BLUR = 1.0  # standard deviation of the Gaussian, in pixels of a 64-pixel image
GAIN, LIFT = 0.15, 0.06  # each channel is multiplied by 1 +- GAIN and moved by +- LIFT of full scale
NOISE = 0.06  # standard deviation of independent noise in each value, of full scale


def like_a_generators(picture: NDArray[np.uint8], rng: np.random.Generator, strength: float = 1.0) -> NDArray[np.uint8]:
    """The image blurred, each channel scaled and shifted independently, with noise added; all scaled by `strength`."""
    values = picture.astype(np.float64) / 255
    values = _blurred(_blurred(values, 0, strength), 1, strength)
    values = values * (1 + strength * rng.uniform(-GAIN, GAIN, 3)) + strength * rng.uniform(-LIFT, LIFT, 3)
    values += rng.normal(0, strength * NOISE, values.shape)
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)


def _blurred(values: NDArray[np.float64], axis: int, strength: float) -> NDArray[np.float64]:
    places = np.arange(-6, 7)
    weights = np.exp(-((places / (strength * BLUR)) ** 2) / 2)
    padded = np.pad(values, [(6, 6) if axis == other else (0, 0) for other in range(values.ndim)], mode="edge")
    blurred = np.zeros_like(values)
    for shift, weight in enumerate(weights / weights.sum()):
        blurred += weight * padded.take(range(shift, shift + values.shape[axis]), axis=axis)
    return blurred
