"""CLIP-like verifiers: the similarity of image and prompt in a contrastive model's space (CLIP, PickScore)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sanac.judge.model_folder import JudgeFolder
from sanac.judge.verifier import Picture, Request
from sanac.nn.silence_libraries import quiet

if TYPE_CHECKING:
    from torch import Tensor

TOGETHER = 16  # images per forward pass


@dataclass(frozen=True)
class ClipVerifier:
    """Cosine similarity of the image's and the prompt's embedding; prompts are cut at the model's 77 tokens."""

    id: str
    model: Any
    processor: Any
    device: torch.device

    @classmethod
    def open(cls, folder: JudgeFolder, device: str) -> "ClipVerifier":
        """Load a checked folder."""
        with quiet():
            from transformers import CLIPModel, CLIPProcessor

            model = folder.load(CLIPModel, torch.float32).to(device).eval()
            processor = folder.load_processor(CLIPProcessor)
        return cls(f"clip {folder.identity}", model, processor, torch.device(device))

    def scores(self, images: Sequence[Picture], requests: Sequence[Request]) -> list[float]:
        """Cosines, from -1 to 1."""
        found: list[float] = []
        for start in range(0, len(images), TOGETHER):
            some = slice(start, start + TOGETHER)
            found += self._scores(images[some], [request.prompt for request in requests[some]])
        return found

    def _scores(self, images: Sequence[Picture], prompts: Sequence[str]) -> list[float]:
        from PIL import Image

        how = {"return_tensors": "pt", "padding": "max_length", "truncation": True}
        inputs = self.processor(text=list(prompts), images=[Image.fromarray(image) for image in images], **how)
        with torch.no_grad():
            outputs = self.model(**inputs.to(self.device))
        return [float(score) for score in _cosines(outputs.image_embeds, outputs.text_embeds)]


def _cosines(images: "Tensor", texts: "Tensor") -> "Tensor":
    return torch.nn.functional.cosine_similarity(images.float(), texts.float(), dim=-1)
