"""Training of the token transformer: it predicts the masked codes of an image from its caption."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sanac.finetune.shapes_data import captions
from sanac.reinforce.token_learner import attention_kernel
from sanac.tiny.reading import SIZES, head, lesson_answers
from sanac.tokens.text import TextTokens
from sanac.tokens.transformer import MaskedTokenTransformer
from sanac.train.task import WholeBatches

READING, LAYER = 0.1, 3  # weight of the reading loss, and the layer behind which it reads
BEFORE = 2  # markers before a caption's first word: t2i and bos


@dataclass
class SceneCodes:
    """Encoded scenes (count, tokens), and the lesson that each of them shows."""

    codes: Tensor
    chosen: Tensor
    identity: str


@dataclass
class MaskedTokenTask(WholeBatches):
    """Cross-entropy of the masked codes; a share cos(pi u / 2) of an image's tokens is masked, u uniform.

    Beside it a linear head reads shape, count, colour and side where a caption has named an item, as for sanac:tiny's
    text encoder; it is thrown away.
    """

    transformer: MaskedTokenTransformer
    text: TextTokens
    data: SceneCodes
    batch_size: int = 64
    caption_dropout: float = 0.1
    compiled: bool = False
    shown: str = ""
    reader: nn.Linear = field(init=False)

    def __post_init__(self) -> None:
        """Make the reading head."""
        self.reader = head(self.transformer.architecture.width)

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """The transformer and the reading head."""
        return {"transformer": self.transformer, "reader": self.reader}

    @property
    def identity(self) -> str:
        """Settings of the task for the training's content key."""
        return f"masked tokens {self.data.identity} {self.batch_size} {self.caption_dropout} {READING} {LAYER}"

    def loss(self, generator: torch.Generator, _number: int = 0, /) -> Tensor:
        """The loss of one batch of scenes, captions and masks."""
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        picked = rng.integers(len(self.data.codes), size=self.batch_size)
        chosen = self.data.chosen[picked].tolist()
        ways = [int(rng.integers(len(captions(lesson)))) for lesson in chosen]
        texts = [captions(lesson)[way] for lesson, way in zip(chosen, ways, strict=True)]
        dropped = rng.random(self.batch_size) < self.caption_dropout
        self.shown = f"the captions {texts[0]!r} and {len(texts) - 1} more"
        shape, codes = self.transformer.architecture, self.data.codes[torch.from_numpy(picked)].long()
        masked = torch.from_numpy(_masks(rng, self.batch_size, shape.image_tokens))
        text = self.text(["" if drop else one for one, drop in zip(texts, dropped, strict=True)])
        image = torch.where(masked, shape.mask, codes + shape.first_code)
        with attention_kernel(image.device):
            states = self.transformer.states(text, image, layers=True)
        error = nn.functional.cross_entropy(self.transformer.logits(states[-1])[masked].float(), codes[masked])
        asked = [
            (row, answer)
            for row, (lesson, way) in enumerate(zip(chosen, ways, strict=True))
            if not dropped[row]
            for answer in lesson_answers(lesson)[way]
        ]
        return error + READING * self._reading(states[LAYER], text, asked)

    def _reading(self, states: Tensor, text: Tensor, asked: list[tuple[int, tuple[int, tuple[int, ...]]]]) -> Tensor:
        """Summed cross-entropy of what is read at the asked words."""
        pad = self.transformer.architecture.marker("pad")
        left = (text == pad).sum(dim=1) - int((text == pad).all(dim=0).sum())  # padding that the sequence keeps
        rows = torch.tensor([row for row, _ in asked])
        columns = left[rows] + torch.tensor([word + BEFORE for _, (word, _) in asked])
        right = torch.tensor([answer for _, (_, answer) in asked])
        given = self.reader(states[rows, columns]).float().split(SIZES, dim=-1)
        return sum((nn.functional.cross_entropy(part, right[:, i]) for i, part in enumerate(given)), torch.zeros(()))


def _masks(rng: np.random.Generator, count: int, tokens: int) -> NDArray[np.bool_]:
    """Random masks (count, tokens) of a cosine-distributed number of tokens, at least one."""
    sizes = np.maximum(1, np.floor(tokens * np.cos(math.pi / 2 * rng.random(count))))
    ranks = rng.random((count, tokens)).argsort(axis=1).argsort(axis=1)
    masks: NDArray[np.bool_] = ranks < sizes[:, None]
    return masks
