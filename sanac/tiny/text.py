"""Text encoding for training: the embeddings of `SanaPipeline`, with less padding."""

import torch
from torch import Tensor, nn
from transformers import Gemma2Model, PreTrainedTokenizerFast

LENGTH = 20  # tokens of the longest caption, with <bos>


class CaptionEncoder(nn.Module):  # type: ignore[misc]
    """A tokenizer with a text encoder.

    The pipeline pads to 300 masked tokens; this module pads to LENGTH. After the instruction, which this tokenizer
    drops, the pipeline selects token 0 and the last 299 of 299, so `<bos>` occurs twice. The duplicate key doesn't
    affect an empty caption but shifts the attention weights of others, so training reproduces it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, encoder: Gemma2Model) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = encoder

    def forward(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Embeddings (count, LENGTH + 1, width) and mask (count, LENGTH + 1)."""
        words = [caption.lower().strip() for caption in captions]
        tokens = self.tokenizer(words, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        device = self.encoder.device
        ids, mask = tokens["input_ids"].to(device), tokens["attention_mask"].to(device)
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return torch.cat((hidden[:, :1], hidden), dim=1), torch.cat((mask[:, :1], mask), dim=1)
