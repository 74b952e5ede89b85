"""PSNR and SSIM: of equal pictures, by hand, and in their order."""

import numpy as np
import pytest

from sanac.judge.image_metrics import EQUAL, ms_ssim_distance, psnr, ssim

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


def test_the_structural_distance_sees_what_ssim_of_luminance_does_not() -> None:
    """A colour of the same luminance: the mean of red, green and blue is the same, the picture is not."""
    red = np.full((64, 64, 3), 30, np.uint8)
    red[16:48, 16:48] = (180, 60, 60)
    blue = red[..., ::-1].copy()
    assert ssim(red, blue) == pytest.approx(1)
    assert ms_ssim_distance(red, blue) > 0.05
    assert ms_ssim_distance(red, blue) == pytest.approx(ms_ssim_distance(blue, red))


@pytest.mark.parametrize("side", [1, 5, 7, 13, 20, 64, 225])
def test_the_structural_distance_is_zero_for_equal_pictures_of_any_size(side: int) -> None:
    picture = GENERATOR.integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    assert ms_ssim_distance(picture, picture) == 0
    assert 0 < ms_ssim_distance(picture, 255 - picture) <= 1


def test_the_structural_distance_grows_with_noise_and_with_blur() -> None:
    picture = GENERATOR.integers(0, 256, (16, 16, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    noisy = [np.clip(picture + GENERATOR.normal(0, spread, picture.shape), 0, 255) for spread in (2, 10, 40)]
    blurred = [(picture.astype(float) + sum(np.roll(picture, n, 1) for n in range(1, 2 * k))) / 2 / k for k in (1, 4)]
    for changed in (noisy, blurred):
        found = [ms_ssim_distance(one.astype(np.uint8), picture) for one in changed]
        assert 0 < found[0] < found[-1] < 1
        assert found == sorted(found)


def test_five_scales_have_the_paper_s_weights() -> None:
    """Flat pictures: structure is equal at every scale, brightness counts with the last scale's weight."""
    dark, bright = (np.full((128, 128, 3), value, np.uint8) for value in (51, 102))
    brightness = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    assert 1 - ms_ssim_distance(dark, bright) == pytest.approx(0.5 * brightness**0.1333 + 0.5, abs=1e-4)
