"""Image similarity: PSNR and SSIM."""

import numpy as np
from numpy.typing import NDArray

EQUAL = 100.0  # dB, reported for equal images
_WINDOW = 7  # pixels, along a side
_FIRST, _SECOND = 0.01**2, 0.03**2

Picture = NDArray[np.uint8]  # (height, width, 3)


def psnr(found: Picture, wanted: Picture) -> float:
    """Peak signal-to-noise ratio of `found` against `wanted` in dB, at most 100."""
    error = float(np.square(found.astype(np.float64) - wanted).mean())
    return min(EQUAL, 10 * float(np.log10(255**2 / error))) if error else EQUAL


def ssim(found: Picture, wanted: Picture) -> float:
    """Structural similarity (Wang et al. 2004) of luminance, averaged over all 7 x 7 windows."""
    one, other = (picture.astype(np.float64).mean(axis=2) / 255 for picture in (found, wanted))
    size = min(_WINDOW, *one.shape)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        windows = np.lib.stride_tricks.sliding_window_view(values, (size, size))
        smoothed: NDArray[np.float64] = windows.mean(axis=(2, 3))
        return smoothed

    left, right = mean(one), mean(other)
    spread = mean(one * one) - left**2 + mean(other * other) - right**2
    together = mean(one * other) - left * right
    above = (2 * left * right + _FIRST) * (2 * together + _SECOND)
    return float((above / ((left**2 + right**2 + _FIRST) * (spread + _SECOND))).mean())
