"""Prompts as Show-o reads them: [pad ... pad  t2i  bos  words  eos], padded on the left to one length."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from tokenizers import Tokenizer
from torch import Tensor

from sanac.core.family.showo import ShowoArchitecture


@dataclass(frozen=True)
class TextTokens:
    """A text tokenizer and the tokens around a prompt."""

    tokenizer: Tokenizer
    architecture: ShowoArchitecture
    bos: int
    eos: int

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Tokens (count, text_length + 1); a prompt that is too long is cut, and still ends with eos."""
        return torch.tensor([self._row(prompt) for prompt in prompts])

    def _row(self, prompt: str) -> list[int]:
        shape = self.architecture
        words = self.words(prompt)
        row = [shape.marker("t2i"), self.bos, *words, self.eos]
        length = shape.text_length + 1
        if len(row) > length:
            row = [*row[: length - 1], self.eos]
        return [shape.marker("pad")] * (length - len(row)) + row

    def words(self, prompt: str) -> list[int]:
        """The tokens of a prompt alone, without a bos that it may begin with."""
        found: list[int] = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return found[1:] if found[:1] == [self.bos] else found

    @cached_property
    def unknown(self) -> int | None:
        """The token of unknown words; None if there is none."""
        found: int | None = self.tokenizer.token_to_id("<unk>")
        return found
