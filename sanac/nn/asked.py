"""What the user said about measuring: prompts, sampler, memory; and how long that will take."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sanac.core.errors import Lacking, Misuse
from sanac.core.talk import Talk
from sanac.core.units import duration_text
from sanac.nn.inputs import Inputs

LIMIT = 2_000_000_000  # bytes
FEWEST = 3  # prompts that are worth measuring on
PATIENCE = 3600.0  # seconds that a job may take without being asked for


@dataclass(frozen=True, slots=True)
class Wanted:
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
            raise Misuse(problems[0], problems=problems)


@dataclass(frozen=True, slots=True)
class Cost:
    """How long a job will take, and what that hangs on."""

    what: str
    seconds: float
    device: str
    inputs: Inputs
    prompts: int
    steps: int

    def announce(self, talk: Talk, *, yes: bool, cheaper: Sequence[str] = ()) -> None:
        """Say it; what takes long only goes on when told to."""
        talk.note(f"{self.what} ({self.inputs.source}): about {duration_text(self.seconds)} on {self.device}")
        if self.seconds <= PATIENCE or yes:
            return
        fewer = {"--num-prompts": (self.prompts, max(FEWEST, self.prompts // 10))}
        fewer["--timesteps"] = (self.steps, max(1, self.steps // 4))
        ways = [
            f"{option} {less} (about {duration_text(self.seconds * less / asked)})"
            for option, (asked, less) in fewer.items()
            if less < asked
        ]
        ways += [*cheaper, *(["--embeddings FILE (it has no text encoder)"] if self.inputs.needs_encoder else [])]
        raise Lacking(
            f"{self.what} would take about {duration_text(self.seconds)} here",
            why="the model is big and there is no GPU" if self.device == "cpu" else "the model is big",
            hint=f"{', '.join(ways)}, a machine with a GPU, or --yes" if ways else "a machine with a GPU, or --yes",
        )


def not_without(what: str) -> Lacking:
    """A dry run doesn't compute for hours."""
    return Lacking(f"the plan hangs on {what}, not done before", hint="run the command without --dry-run")
