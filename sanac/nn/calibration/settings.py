"""What the user said about measuring: prompts, sampler, memory; and how long that will take."""

from dataclasses import dataclass
from pathlib import Path

from sanac.core.errors import UsageError

LIMIT = 2_000_000_000  # bytes
FEWEST = 3  # prompts that are worth measuring on


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """What the user said about the measurement."""

    prompts: Path | None = None
    num_prompts: int | None = None
    timesteps: int = 20
    guidance: float = 4.5
    reduce: str = "token"
    memory_limit: int | None = None  # LIMIT; what searches and repairs may take half of what is free
    yes: bool = False
    seed: int = 0
    device: str | None = None
    embeddings: Path | None = None
    inputs: str = "sampled"
    data: Path | None = None
    save_embeddings: Path | None = None
    velocity: bool = False
    dry: bool = False  # nothing is computed: what was not measured before is lacking

    @property
    def limit(self) -> int:
        """The memory limit, named or not."""
        return self.memory_limit or LIMIT

    def check(self) -> None:
        """What was said contradicts itself: all of it at once."""
        problems = []
        if not 0 <= self.guidance <= 100:
            problems.append(f"--guidance {self.guidance} is not between 0 and 100")
        if self.inputs == "noised" and self.data is None:
            problems.append("--inputs noised needs --data DIR, a folder of latents")
        if self.inputs != "noised" and self.data is not None:
            problems.append("--data is for --inputs noised")
        if self.prompts and self.embeddings:
            problems.append("--prompts and --embeddings contradict each other")
        if self.prompts and self.data:
            problems.append("--prompts and --data contradict each other: captions lie beside the latents")
        if self.save_embeddings and (self.embeddings or self.data):
            problems.append("--save-embeddings is for prompts that are encoded here")
        if self.save_embeddings and self.save_embeddings.is_dir():
            problems.append(f"--save-embeddings {self.save_embeddings} is a folder")
        if problems:
            raise UsageError(problems[0], problems=problems)
