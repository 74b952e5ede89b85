"""Pretraining of the text encoder: it learns to bind attributes to items before the transformer is trained.

SANA's text encoder is a language model that already binds attributes to nouns. The flow-matching loss teaches that
slowly: which of two shapes is the red one hardly affects it. So at the word where a caption has named an item, a linear
head predicts its shape, count, colour and side. The head is discarded afterwards.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from sanac.finetune.shapes_data import captions, draw_lessons, lessons
from sanac.shapes.prompts import Content, ItemSpec
from sanac.shapes.words import COLORS, RELATIONS, SHAPES, plural
from sanac.tiny.build import TEXT_WIDTH
from sanac.tiny.text import CaptionEncoder
from sanac.train.task import WholeBatches

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CHOICES = (SHAPES, (1, 2, 3, 4), (None, *COLORS), (None, *RELATIONS))  # answers for shape, count, colour and side
SIZES = tuple(map(len, CHOICES))
BEFORE = 2  # the encoder's first two states belong to `<bos>`

Answer = tuple[int, tuple[int, ...]]  # word index; indices of the correct choices


def answers(text: str, content: Content) -> Iterator[Answer]:
    """The answers known at each word: an item's once it is named, the first item's side at the second one's article."""
    words = text.split()
    ends = [_end(words, item) for item in content.wanted]
    first, *others = content.wanted
    yield ends[0], _answer(first, None)
    for second in others:
        start = max(index for index in range(ends[1]) if words[index] == "a")
        yield start - 1, _answer(first, content.relation)
        yield ends[1], _answer(second, OPPOSITE[content.relation] if content.relation else None)


def _end(words: list[str], item: ItemSpec) -> int:
    """Index of the last word that names an item: 'two red circles', 'a circle that is red'."""
    index = words.index(item.shape if item.count == 1 else plural(item.shape))
    return index + 3 if words[index + 1 : index + 3] == ["that", "is"] else index


def _answer(item: ItemSpec, side: str | None) -> tuple[int, ...]:
    said = (item.shape, item.count, item.color, side)
    return tuple(choices.index(word) for choices, word in zip(CHOICES, said, strict=True))


@cache
def lesson_answers(lesson: int) -> list[list[Answer]]:
    """The answers to each of a lesson's captions."""
    return [list(answers(text, lessons()[lesson])) for text in captions(lesson)]


def head(width: int = TEXT_WIDTH) -> nn.Linear:
    """The linear head from a word's hidden state to the logits of all answers."""
    return nn.Linear(width, sum(SIZES))


@dataclass
class ReadingTask(WholeBatches):
    """Classification of items' attributes from the hidden states of single words."""

    words: CaptionEncoder
    head: nn.Linear
    batch_size: int = 256
    compiled: bool = False
    shown: str = "captions"

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The text encoder and the classification head."""
        return {"text_encoder": self.words.encoder, "head": self.head}

    @property
    def identity(self) -> str:
        """Settings of the task for the training's content key."""
        return f"reading words {self.batch_size}"

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """The summed cross-entropy of all answers on one batch of captions."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        chosen = draw_lessons(self.batch_size, rng).tolist()
        ways = [int(rng.integers(len(captions(lesson)))) for lesson in chosen]
        texts = [captions(lesson)[way] for lesson, way in zip(chosen, ways, strict=True)]
        asked = [lesson_answers(lesson)[way] for lesson, way in zip(chosen, ways, strict=True)]
        given, right = self.answer(texts, asked)
        losses = [nn.functional.cross_entropy(part, right[:, i]) for i, part in enumerate(given)]
        return torch.stack(losses).sum()

    def answer(self, texts: list[str], asked: list[list[Answer]]) -> tuple[tuple[Tensor, ...], Tensor]:
        """(logits of shape, count, colour and side at the asked words, indices of the correct answers)."""
        embeddings, _ = self.words(texts)
        places = [(row, word + BEFORE) for row, found in enumerate(asked) for word, _ in found]
        rows, columns = torch.tensor(places).T
        given: tuple[Tensor, ...] = self.head(embeddings[rows, columns]).split(SIZES, dim=-1)
        return given, torch.tensor([right for found in asked for _, right in found], device=given[0].device)
