"""The sheet of a comparison: every picture is on it, whole, whatever the sizes."""

import numpy as np
import pytest

from sanac.verify.comparison_sheet import draw_sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)


def flat(height: int, width: int, color: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), color, np.uint8)


@pytest.mark.parametrize(
    ("first", "other", "cell"),
    [
        ((64, 64), (64, 64), 256),
        ((64, 64), (128, 128), 256),
        ((1024, 1024), (512, 256), 512),
        ((300, 200), (96, 96), 300),
    ],
)
def test_pictures_of_any_size(first: tuple[int, int], other: tuple[int, int], cell: int) -> None:
    columns = [[flat(*first, RED)] * 3, [flat(*other, BLUE)] * 3]
    headers = [["a model", "12 blocks"], ["a model with a very long name that does not fit above its column at all"]]
    prompts = ["short", "a prompt of very many words " * 40, "onelongword" * 50]
    sheet = np.asarray(draw_sheet(columns, headers, prompts, [["", "", ""], ["PSNR 20 dB"] * 3]))
    for size, color in ((first, RED), (other, BLUE)):
        scale = cell / max(size) if max(size) > cell else cell // max(size)
        expected = 3 * round(size[0] * scale) * round(size[1] * scale)
        assert int((sheet == color).all(axis=-1).sum()) == expected
    assert (sheet[-8:] == 255).all()
    assert (sheet[:, -8:] == 255).all(), "nothing runs out of its column"


def test_a_row_keeps_its_order() -> None:
    columns = [[flat(64, 64, RED), flat(64, 64, BLUE)], [flat(64, 64, BLUE), flat(64, 64, RED)]]
    sheet = np.asarray(draw_sheet(columns, [["a"], ["b"]], ["one", "two"], [["", ""], ["", ""]]))
    red = (sheet == RED).all(axis=-1)
    half = sheet.shape[1] // 2 + 110  # the columns begin behind the prompts
    rows = np.flatnonzero(red[:, :half].any(axis=1))
    assert rows.max() < np.flatnonzero(red[:, half:].any(axis=1)).min()
