"""PSNR and SSIM: of equal pictures, by hand, and in their order."""

import numpy as np
import pytest

from sanac.judge.image_metrics import EQUAL, psnr, ssim

GENERATOR = np.random.default_rng(0)
PICTURE = GENERATOR.integers(0, 256, (32, 24, 3), dtype=np.uint8)


def test_equal_pictures() -> None:
    assert psnr(PICTURE, PICTURE) == EQUAL
    assert ssim(PICTURE, PICTURE) == pytest.approx(1.0)


def test_psnr_by_hand() -> None:
    """One value of many is ten too large."""
    other = PICTURE.copy()
    other[3, 4, 1] = other[3, 4, 1] + 10 if other[3, 4, 1] < 240 else other[3, 4, 1] - 10
    assert psnr(other, PICTURE) == pytest.approx(10 * np.log10(255**2 * PICTURE.size / 100))


def test_ssim_by_hand() -> None:
    """Flat pictures: only their brightness differs."""
    dark, bright = (np.full((16, 16, 3), value, np.uint8) for value in (51, 102))
    assert ssim(dark, bright) == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4))


def test_more_noise_is_less_alike() -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (64, 64, 3))
    noisy = (smooth + GENERATOR.normal(0, spread, smooth.shape) for spread in (2, 20))
    found = [ssim(np.clip(picture, 0, 255).astype(np.uint8), smooth) for picture in noisy]
    assert 1 > found[0] > found[1] > 0
    assert found[1] < 0.8
