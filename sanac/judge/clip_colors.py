"""The colour of detected objects, by CLIP: each object is cropped and compared with sentences that name a colour."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sanac.core.errors import InvalidInput
from sanac.judge.detections import Detection
from sanac.judge.model_folder import JudgeFolder
from sanac.judge.verifier import Picture
from sanac.nn.silence_libraries import quiet

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {color} {label}", "a photo of a {color}-colored {label}", "a photo of a {color} object")
GREY = 0x99  # of everything that isn't the object
_LONGEST = 8  # widths by height of a crop, or the reverse; CLIP only sees its middle square anyway


@dataclass(frozen=True)
class ClipColors:
    """Names one of ten colours for every object; the embeddings of a class's sentences are computed once."""

    id: str
    model: Any
    processor: Any
    device: torch.device
    _sentences: dict[str, "Tensor"] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def open(cls, folder: JudgeFolder, device: str) -> "ClipColors":
        """Load a checked folder."""
        with quiet():
            from transformers import CLIPModel, CLIPProcessor

            model = folder.load_whole(CLIPModel, torch.float32).to(device).eval()
            processor = folder.load_processor(CLIPProcessor)
        return cls(f"{folder.kind} {folder.identity}", model, processor, torch.device(device))

    def colors(self, picture: Picture, found: Sequence[Detection]) -> list[str]:
        """The colour of each detection in an image."""
        if not found:
            return []
        inputs = self.processor.image_processor([crop(picture, one) for one in found], return_tensors="pt")
        with torch.no_grad():
            images = _normalized(self.model.get_image_features(pixel_values=inputs["pixel_values"].to(self.device)))
        if not torch.isfinite(images).all():
            raise InvalidInput(f"the colour model {self.id} answers NaN", hint="fetch it again")
        texts = torch.stack([self._texts(one.label) for one in found])
        best = (texts @ images[..., None])[..., 0].argmax(dim=1)
        return [COLORS[number] for number in best.tolist()]

    def _texts(self, label: str) -> "Tensor":
        """(10, features): per colour the normalised mean of its sentences' normalised embeddings."""
        if label not in self._sentences:
            sentences = [template.format(color=color, label=label) for color in COLORS for template in TEMPLATES]
            longest = self.model.config.text_config.max_position_embeddings
            how = {"return_tensors": "pt", "padding": "max_length", "max_length": longest, "truncation": True}
            inputs = self.processor.tokenizer(sentences, **how).to(self.device)
            with torch.no_grad():
                every = _normalized(self.model.get_text_features(**inputs))
            means = every.reshape(len(COLORS), len(TEMPLATES), -1).mean(dim=1)
            self._sentences[label] = _normalized(means)
        return self._sentences[label]


def crop(picture: Picture, found: Detection) -> "Image.Image":
    """The box of a detection, everything outside its mask grey."""
    from PIL import Image

    left, top, right, bottom = map(round, found.box)
    shown = picture if found.mask is None else np.where(found.mask[..., None], picture, np.uint8(GREY))
    # resized until its shorter side fits, a hair of 1 x 1000 pixels would fill the memory
    across, down = max(0, right - left - _LONGEST * (bottom - top)), max(0, bottom - top - _LONGEST * (right - left))
    box = (left + across // 2, top + down // 2, right - (across + 1) // 2, bottom - (down + 1) // 2)
    return Image.fromarray(shown).crop(box)


def _normalized(found: Any) -> "Tensor":
    """Rows of unit length, of a tensor or of the pooled output that newer transformers return."""
    values: Tensor = getattr(found, "pooler_output", found)
    return torch.nn.functional.normalize(values.float(), dim=-1)
