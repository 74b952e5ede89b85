"""Settings of masked prediction."""

from dataclasses import asdict, dataclass
from typing import Any

from sanac.core.errors import UsageError
from sanac.nn.generation import GenerationSettings
from sanac.tokens.unmasking import ORDERS

STEPS, SCALE = 18, 1.75  # Show-o's


@dataclass(frozen=True, slots=True)
class TokenSampling(GenerationSettings):
    """Settings of masked prediction. Guidance is Show-o's: (1 + s) prompted - s unprompted; 0 is none."""

    steps: int = STEPS
    guidance: float = SCALE
    order: str = "confidence"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raise one UsageError that lists all invalid settings."""
        GenerationSettings.__post_init__(self)
        if self.order not in ORDERS:
            raise UsageError(f"there is no order {self.order!r}", hint=f"--order {' or '.join(ORDERS)}")
        if self.size or self.tile:
            what = "--size" if self.size else "--tile"
            raise UsageError(f"{what} can't be used with a token generator", why="its images have one size")

    def to_json(self) -> dict[str, Any]:
        """The settings that an image depends on; the batch size is not one of them."""
        idle = {"batch", "tile", "size"} | ({"temperature"} if self.order == "halton" else set())
        return {name: value for name, value in asdict(self).items() if name not in idle}


def token_sampling(sampling: GenerationSettings) -> TokenSampling:
    """Settings of masked prediction; AssertionError for those of another generator."""
    assert isinstance(sampling, TokenSampling), "these are another generator's settings"
    return sampling
