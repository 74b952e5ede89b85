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

    def feature_distances(self, images: Sequence[Picture], references: Sequence[Picture]) -> list[float]:
        """How far the features of two images are from each other: 0 for equal ones, at most 2.

        Features are the outputs of every layer of the vision tower at every patch, normalised to length 1; the distance
        is the mean of |u - v|^2 / 2, which is 1 - cosine. Layers have equal weights: none was fitted to people's eyes.
        """
        found: list[float] = []
        for start in range(0, len(images), TOGETHER):
            some = slice(start, start + TOGETHER)
            pairs = zip(self._features(images[some]), self._features(references[some]), strict=True)
            layers = torch.stack([(one - other).square().sum(dim=-1).mean(dim=-1) / 2 for one, other in pairs])
            found += layers.mean(dim=0).tolist()
        return found

    def _features(self, images: Sequence[Picture]) -> "list[Tensor]":
        """(images, patches, width) of each layer, of length 1 along the last dimension."""
        from PIL import Image

        pixels = self.processor.image_processor([Image.fromarray(image) for image in images], return_tensors="pt")
        with torch.no_grad():
            states = self.model.vision_model(**pixels.to(self.device), output_hidden_states=True).hidden_states
        return [torch.nn.functional.normalize(state[:, 1:].float(), dim=-1) for state in states[1:]]

    def _scores(self, images: Sequence[Picture], prompts: Sequence[str]) -> list[float]:
        from PIL import Image

        most = self.model.config.text_config.max_position_embeddings  # not every tokenizer knows it
        how = {"return_tensors": "pt", "padding": "max_length", "truncation": True, "max_length": most}
        inputs = self.processor(text=list(prompts), images=[Image.fromarray(image) for image in images], **how)
        with torch.no_grad():
            outputs = self.model(**inputs.to(self.device))
        return [float(score) for score in _cosines(outputs.image_embeds, outputs.text_embeds)]


def _cosines(images: "Tensor", texts: "Tensor") -> "Tensor":
    return torch.nn.functional.cosine_similarity(images.float(), texts.float(), dim=-1)
