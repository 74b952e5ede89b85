"""Mask2Former as a detector: what mmdet, which GenEval runs, reads from the model's queries.

transformers' own post-processing answers another question (which pixel belongs to which object), at a lower
resolution. Here every query and class is a candidate of its own, so objects may overlap:

    score = P(class) * mean of sigmoid(mask) where mask > 0        box = left, top, right + 1, bottom + 1 of mask > 0
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import interpolate, pad

from sanac.core import json_files
from sanac.core.errors import InvalidInput
from sanac.judge.detections import Box, Detection, is_plain_text
from sanac.judge.model_folder import DETECTORS, JudgeFolder
from sanac.judge.verifier import Picture
from sanac.nn.silence_libraries import quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

CANDIDATES = 100  # pairs of query and class that are considered, the most probable ones
_STRIDE = 32  # the sides of the model's input are multiples of it
_TOGETHER = 8  # masks enlarged at a time: 100 of them at 1024 px would take 400 MB

# COCO's classes by the names in configurations of transformers -> the names in GenEval's prompts
GENEVAL_NAMES = {
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def class_names(folder: JudgeFolder) -> tuple[str, ...]:
    """The detector's classes by number, by GenEval's names; InvalidInput if its config.json doesn't name them."""
    named = json_files.read_object(folder.path / "config.json").get("id2label")
    names = [named.get(str(number)) for number in range(len(named))] if isinstance(named, dict) else []
    if not names or not all(map(is_plain_text, names)):
        raise InvalidInput(
            f"the detector {folder.name} doesn't name its classes",
            why="id2label in its config.json is not a table of class numbers and names",
            hint="fetch it again, or choose another one: --detector MODEL",
        )
    return tuple(GENEVAL_NAMES.get(str(name), str(name)) for name in names)


@dataclass(frozen=True)
class Mask2FormerDetector:
    """A Mask2Former for instances, of any set of classes."""

    id: str
    labels: tuple[str, ...]
    model: Any
    processor: Any
    device: torch.device

    @classmethod
    def open(cls, folder: JudgeFolder, device: str) -> "Mask2FormerDetector":
        """Load a checked folder.

        Images are always resized by PIL, so that the same image has the same score with and without torchvision.
        """
        labels = class_names(folder)
        with quiet():
            import transformers

            kind = getattr(transformers, DETECTORS[folder.kind][1], None)
            kind = kind or transformers.Mask2FormerImageProcessor  # its name before there were two
            model = folder.load_whole(_model_class(), torch.float32).to(device).eval()
            processor = folder.load_image_processor(kind)
        return cls(f"{folder.kind} {folder.identity}", labels, model, processor, torch.device(device))

    def look(self, picture: Picture, least: float = 0.0) -> list[Detection]:
        """The detections in an image with a score above `least`, at most 100."""
        from PIL import Image

        with quiet():
            inputs = self.processor(images=[Image.fromarray(picture)], size_divisor=0, return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device)
        height, width = pixels.shape[-2:]
        with torch.no_grad():
            classes, masks = self.model(pad(pixels, (0, -width % _STRIDE, 0, -height % _STRIDE)))
        if not (torch.isfinite(classes).all() and torch.isfinite(masks).all()):
            raise InvalidInput(f"the detector {self.id} answers NaN", hint="fetch it again")
        found = instances(classes, masks, (height, width), picture.shape[:2], least)
        return [Detection(self.labels[number], score, box, mask=mask) for number, score, box, mask in found]


def _model_class() -> Any:
    """Mask2FormerForUniversalSegmentation without its loss, which needs scipy even where nothing is trained."""
    from transformers import Mask2FormerModel
    from transformers.models.mask2former.modeling_mask2former import Mask2FormerPreTrainedModel

    class Mask2FormerHeads(Mask2FormerPreTrainedModel):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = Mask2FormerModel(config)
            self.class_predictor = torch.nn.Linear(config.hidden_dim, config.num_labels + 1)
            self.post_init()

        def forward(self, pixel_values: "Tensor") -> tuple["Tensor", "Tensor"]:
            """Logits of classes (queries, classes + 1) and of masks (queries, height / 4, width / 4) of one image."""
            found = self.model(pixel_values=pixel_values, output_hidden_states=True, return_dict=True)
            classes = self.class_predictor(found.transformer_decoder_intermediate_states[-1].transpose(0, 1))
            return classes[0].float(), found.masks_queries_logits[-1][0].float()

    return Mask2FormerHeads


def instances(
    classes: "Tensor", masks: "Tensor", seen: tuple[int, int], size: tuple[int, ...], least: float = 0.0
) -> Iterator[tuple[int, float, Box, "NDArray[np.bool_]"]]:
    """Class, score, box and mask of every instance with a score above `least`, at the image's own size.

    `classes` are logits (queries, classes + 1), the last one for no object; `masks` are logits (queries, height, width)
    at a quarter of the model's input, of which the upper left `seen` (height, width) shows the image, the rest padding.
    """
    chances = classes.softmax(dim=-1)[:, :-1]
    scores, places = chances.flatten().topk(min(CANDIDATES, chances.numel()))
    places = places[scores > least]  # the mask's share is at most 1
    padded = [edge + -edge % _STRIDE for edge in seen]
    for some in places.split(_TOGETHER) if len(places) else ():
        enlarged = masks[some // chances.shape[1]][None]
        enlarged = interpolate(enlarged, size=padded, mode="bilinear", align_corners=False)[..., : seen[0], : seen[1]]
        enlarged = interpolate(enlarged, size=list(size), mode="bilinear", align_corners=False)[0]
        for place, logits in zip(some.tolist(), enlarged, strict=True):
            query, number = divmod(place, chances.shape[1])
            inside = logits > 0
            if not inside.any():
                continue
            score = float(chances[query, number] * logits[inside].sigmoid().mean())
            if score > least:
                mask = inside.cpu().numpy()
                yield number, score, _box(mask), mask


def _box(mask: "NDArray[np.bool_]") -> Box:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
