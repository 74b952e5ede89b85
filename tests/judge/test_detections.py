"""What a detector may say."""

from typing import Any

import numpy as np
import pytest

from sanac.core.errors import InvalidInput
from sanac.judge.detections import Detection, is_plain_text

BOX = (0.0, 0.0, 10.0, 10.0)


def test_numbers_of_numpy_become_pythons() -> None:
    scores = np.asarray([0.5, 0, 1, 2, 3], dtype=np.float32)
    found = Detection("dog", scores[0], tuple(scores[1:]))
    assert (type(found.score), *map(type, found.box)) == (float,) * 5
    assert found == Detection("dog", 0.5, (0, 1, 2, 3))


def test_masks_don_t_get_in_the_way_of_comparing() -> None:
    one = Detection("dog", 0.5, BOX, mask=np.ones((4, 4), dtype=bool))
    assert one == Detection("dog", 0.5, BOX)
    assert hash(one) == hash(Detection("dog", 0.5, BOX))
    assert "mask" not in repr(one)


BREAKS: dict[str, tuple[dict[str, Any], str]] = {
    "no class": ({"label": ""}, "class"),
    "a class of two lines": ({"label": "dog\ncat"}, "class"),
    "half a character": ({"label": "\ud800"}, "class"),
    "a colour that is none": ({"color": " "}, "colour"),
    "NaN": ({"score": float("nan")}, "score"),
    "a logit": ({"score": 3.0}, "score"),
    "an endless box": ({"box": (0, 0, float("inf"), 1)}, "four numbers"),
    "three numbers": ({"box": (0, 0, 1)}, "four numbers"),
    "left and right exchanged": ({"box": (10, 0, 0, 10)}, "left, top"),
    "top and bottom exchanged": ({"box": (0, 10, 10, 0)}, "left, top"),
    "a soft mask": ({"mask": np.ones((4, 4))}, "mask"),
    "a flat mask": ({"mask": np.ones(4, dtype=bool)}, "mask"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_no_detection_is_named(name: str) -> None:
    change, said = BREAKS[name]
    with pytest.raises(InvalidInput, match=said):
        Detection(**({"label": "dog", "score": 0.5, "box": BOX} | change))


def test_all_problems_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        Detection("", 2.0, (1, 1, 0, 0))
    assert len(caught.value.problems) == 3


def test_text_has_an_end() -> None:
    assert is_plain_text("ein Hund, 犬")
    assert not is_plain_text("x" * 100_000)
    assert not is_plain_text(None)
