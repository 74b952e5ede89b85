"""What the text encoder is asked when it learns to read."""

from pathlib import Path

import pytest
import torch

from sanac.core.progress import NULL_REPORTER
from sanac.shapes.prompts import Content, ItemSpec
from sanac.tiny import build
from sanac.tiny.reading import CHOICES, ReadingTask, answers, head
from sanac.tiny.text import CaptionEncoder
from sanac.train.loop import Settings, train
from sanac.train.schedule import Schedule

PAIR = (ItemSpec("circle"), ItemSpec("square"))


def said(text: str, content: Content) -> list[tuple[str, tuple[object, ...]]]:
    """(word, what is to be known there)."""
    words = text.split()
    return [
        (words[word], tuple(choices[place] for choices, place in zip(CHOICES, right, strict=True)))
        for word, right in answers(text, content)
    ]


@pytest.mark.parametrize(
    ("text", "content", "wanted"),
    [
        (
            "a photo of two red circles on a plain background",
            Content("counting", (ItemSpec("circle", "red", 2),)),
            [("circles", ("circle", 2, "red", None))],
        ),
        (
            "this is a circle that is red",
            Content("colors", (ItemSpec("circle", "red"),)),
            [("red", ("circle", 1, "red", None))],
        ),
        (
            "a circle to the left of a square",
            Content("position", PAIR, "left of"),
            [
                ("circle", ("circle", 1, None, None)),
                ("of", ("circle", 1, None, "left of")),
                ("square", ("square", 1, None, "right of")),
            ],
        ),
        (
            "a picture of a square that is blue and a cross that is red",
            Content("color_attr", (ItemSpec("square", "blue"), ItemSpec("cross", "red"))),
            [
                ("blue", ("square", 1, "blue", None)),
                ("and", ("square", 1, "blue", None)),
                ("red", ("cross", 1, "red", None)),
            ],
        ),
        (
            "a circle under a square on a light background",
            Content("position", PAIR, "below"),
            [
                ("circle", ("circle", 1, None, None)),
                ("under", ("circle", 1, None, "below")),
                ("square", ("square", 1, None, "above")),
            ],
        ),
    ],
)
def test_an_item_is_known_where_it_has_been_named(
    text: str, content: Content, wanted: list[tuple[str, tuple[object, ...]]]
) -> None:
    assert said(text, content) == wanted


def test_reading_is_learned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = build.tokenizer()
    task = ReadingTask(CaptionEncoder(tokenizer, build.text_encoder(len(tokenizer))), head(), batch_size=32)
    before = float(task.loss(torch.Generator().manual_seed(1)))
    train(task, Settings(Schedule(5e-3, 40, warmup=5)), tmp_path, NULL_REPORTER)
    assert float(task.loss(torch.Generator().manual_seed(1))) < 0.6 * before
