"""Calibration settings: prompts, sampler, memory limit."""

from dataclasses import dataclass
from pathlib import Path

from sanac.core.errors import UsageError

LIMIT = 2_000_000_000  # bytes
FEWEST = 3  # minimum number of prompts


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """The user's settings for calibration and scoring."""

    prompts: Path | None = None
    num_prompts: int | None = None
    timesteps: int = 20
    guidance: float = 4.5
    reduce: str = "token"
    memory_limit: int | None = None  # None: LIMIT; for search and repair, half of the free memory
    yes: bool = False
    seed: int = 0
    device: str | None = None
    embeddings: Path | None = None
    inputs: str = "sampled"
    data: Path | None = None
    save_embeddings: Path | None = None
    velocity: bool = False
    dry: bool = False  # dry run: only cached results are used, a cache miss is an error

    @property
    def limit(self) -> int:
        """The memory limit in bytes, explicit or default."""
        return self.memory_limit or LIMIT

    def check(self) -> None:
        """UsageError that lists all invalid or contradictory settings."""
        problems = []
        if not 0 <= self.guidance <= 100:
            problems.append(f"--guidance {self.guidance} is not between 0 and 100")
        if self.inputs == "noised" and self.data is None:
            problems.append("--inputs noised needs --data DIR, a folder of latents")
        if self.inputs != "noised" and self.data is not None:
            problems.append("--data only applies with --inputs noised")
        if self.prompts and self.embeddings:
            problems.append("--prompts and --embeddings can't be combined")
        if self.prompts and self.data:
            problems.append("--prompts and --data can't be combined: captions are stored with the latents")
        if self.save_embeddings and (self.embeddings or self.data):
            problems.append("--save-embeddings only applies to prompts that are encoded in this run")
        if self.save_embeddings and self.save_embeddings.is_dir():
            problems.append(f"--save-embeddings {self.save_embeddings} is a folder")
        if problems:
            raise UsageError(problems[0], problems=problems)
