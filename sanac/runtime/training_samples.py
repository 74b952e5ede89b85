"""Sample images during training, always with the same noise."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.nn.generation import ImageGenerator
from sanac.nn.guidance import SCALE
from sanac.runtime.image_files import save_sheet
from sanac.runtime.pipeline import open_generator, sampling_of

if TYPE_CHECKING:
    from torch import Tensor


class Samples:
    """Generates images for fixed prompts every `every` steps with the weights of that step."""

    def __init__(
        self, model: Model, prompts: Sequence[str], every: int, folder: ConfinedPath, device: str | None
    ) -> None:
        self.prompts, self.every, self.folder = tuple(prompts), every, folder
        self.generator: ImageGenerator = open_generator(model, device)
        self.sampling = sampling_of(model, None, SCALE)

    def stepped(self, step: int, weights: "Mapping[str, Tensor]") -> None:
        """Callback after each training step with the averaged weights."""
        if step % self.every:
            return
        self.generator.load_weights({name.partition("/")[2]: tensor for name, tensor in weights.items()})
        seeds = list(range(len(self.prompts)))
        batches = self.generator.generate(self.prompts, seeds, self.sampling)
        pictures = [picture for batch in batches for picture in batch]
        self.folder.mkdir(parents=True, exist_ok=True)
        save_sheet(self.folder / f"step-{step:06d}.png", pictures, self.prompts)
