"""What generating images takes, whatever generates them: the settings, and the protocol of a generator."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sanac.core.errors import UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.nn.guidance import SCALE, STEPS
from sanac.nn.stepwise import Pictures

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """Settings of image generation. Without `size`, the model's native resolution is used."""

    steps: int = STEPS
    guidance: float = SCALE
    size: tuple[int, int] | None = None  # width, height, in pixels
    batch: int = 16
    tile: int | None = None  # side of a decoder tile in pixels; None: no tiling

    def __post_init__(self) -> None:
        """Raise one UsageError that lists all invalid settings."""
        problems = []
        if self.steps < 1:
            problems.append(f"--steps {self.steps} is below 1")
        if not 0 <= self.guidance <= 100:
            problems.append(f"--guidance {self.guidance} is not between 0 and 100")
        if self.size and min(self.size) < 1:
            problems.append(f"--size {self.size[0]}x{self.size[1]} is below 1")
        if self.batch < 1:
            problems.append(f"--batch {self.batch} is below 1")
        if self.tile is not None and self.tile < 1:
            problems.append(f"--tile {self.tile} is below 1")
        if problems:
            raise UsageError("the generation settings are invalid", why=problems[0], problems=problems)

    def to_json(self) -> dict[str, Any]:
        """The settings that an image depends on; the batch size is not one of them."""
        idle = {"batch"} if self.tile else {"batch", "tile"}
        return {name: value for name, value in asdict(self).items() if name not in idle}


class ImageGenerator(Protocol):
    """A model that generates images from prompts, on one device."""

    @property
    def name(self) -> str:
        """The model's name, for messages."""
        ...

    @property
    def device(self) -> str:
        """The device that the model runs on."""
        ...

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: GenerationSettings,
        reporter: Reporter = NULL_REPORTER,
    ) -> Iterator[Pictures]:
        """Yield batches of images; each image depends on its own prompt and seed only."""
        ...

    def load_weights(self, weights: "Mapping[str, torch.Tensor]") -> None:
        """Replace some weights of the model that generates, by their names in it."""
        ...

    def device_warnings(self) -> list[str]:
        """Warnings about this model on this device."""
        ...

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """Words of the prompts that the tokenizer maps to the unknown token."""
        ...
