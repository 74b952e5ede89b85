"""Image similarity: PSNR, SSIM, and a distance of structure over several scales, colours included."""

import numpy as np
from numpy.typing import NDArray

EQUAL = 100.0  # dB, reported for equal images
_WINDOW = 7  # pixels, along a side
_FIRST, _SECOND = 0.01**2, 0.03**2
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the paper, from the full size down
_CHANNEL_SHARES = (0.5, 0.25, 0.25)  # luminance, blue difference, red difference

Picture = NDArray[np.uint8]  # (height, width, 3)
Plane = NDArray[np.float64]  # (height, width)


def psnr(found: Picture, wanted: Picture) -> float:
    """Peak signal-to-noise ratio of `found` against `wanted` in dB, at most 100."""
    error = float(np.square(found.astype(np.float64) - wanted).mean())
    return min(EQUAL, 10 * float(np.log10(255**2 / error))) if error else EQUAL


def ssim(found: Picture, wanted: Picture) -> float:
    """Structural similarity (Wang et al. 2004) of luminance, averaged over all 7 x 7 windows."""
    one, other = (picture.astype(np.float64).mean(axis=2) / 255 for picture in (found, wanted))
    brightness, structure = _compared(one, other)
    return float((brightness * structure).mean())


def ms_ssim_distance(found: Picture, wanted: Picture) -> float:
    """1 - MS-SSIM (Wang, Simoncelli and Bovik 2003), over luminance (half of it) and both colour differences.

    Five scales where the picture has room for them, each half as large as the one before; else as many as fit, with
    weights that still sum to 1. 0 for equal pictures, at most 1. It is not LPIPS: no network is involved.
    """
    one, other = (_channels(picture) for picture in (found, wanted))
    shares = zip(_CHANNEL_SHARES, one, other, strict=True)
    return 1 - sum(share * _multi_scale(ours, theirs) for share, ours, theirs in shares)


def _multi_scale(one: Plane, other: Plane) -> float:
    """MS-SSIM of two planes: the product of each scale's structure, and of the smallest scale's brightness."""
    room = int(np.log2(min(one.shape) / _WINDOW)) + 1 if min(one.shape) >= _WINDOW else 1
    weights = np.asarray(_SCALES[:room]) / sum(_SCALES[:room])
    product = 1.0
    for scale, weight in enumerate(weights):
        brightness, structure = _compared(one, other)
        last = scale == len(weights) - 1
        value = float((brightness * structure if last else structure).mean())
        product *= max(0.0, value) ** float(weight)  # opposite structure has no real root
        one, other = _halved(one), _halved(other)
    return product


def _compared(one: Plane, other: Plane) -> tuple[Plane, Plane]:
    """(brightness, structure) of two planes in every window, each at most 1; their product is SSIM."""
    size = min(_WINDOW, *one.shape)
    left, right = _window_means(one, size), _window_means(other, size)
    spread = (_window_means(one * one, size) - left**2) + (_window_means(other * other, size) - right**2)
    together = _window_means(one * other, size) - left * right
    brightness = (2 * left * right + _FIRST) / (left**2 + right**2 + _FIRST)
    return brightness, (2 * together + _SECOND) / (spread + _SECOND)


def _window_means(values: Plane, size: int) -> Plane:
    """The mean of every window of `size` x `size`, by sums along one side, then along the other."""
    for _ in range(2):
        sums = np.cumsum(np.pad(values, ((1, 0), (0, 0))), axis=0)
        values = (sums[size:] - sums[:-size]).T / size
    return values


def _halved(plane: Plane) -> Plane:
    """A plane of half the sides: means of 2 x 2 pixels; an odd last row or column is dropped."""
    rows, columns = (max(1, side // 2) * 2 if side > 1 else 1 for side in plane.shape)
    if min(rows, columns) < 2:
        return plane
    even = plane[:rows, :columns]
    halved: Plane = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return halved


def _channels(picture: Picture) -> tuple[Plane, Plane, Plane]:
    """Luminance and the two colour differences of BT.601, each from 0 to 1."""
    red, green, blue = np.moveaxis(picture.astype(np.float64) / 255, -1, 0)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue
    return luminance, 0.5 + 0.564 * (blue - luminance), 0.5 + 0.713 * (red - luminance)
