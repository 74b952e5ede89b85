"""The time estimate of a job, and the budget above which it needs --yes."""

from collections.abc import Sequence
from dataclasses import dataclass

from sanac.core.cost import OVERHEAD
from sanac.core.errors import MissingResource
from sanac.core.progress import Reporter
from sanac.core.units import bytes_text, duration_text
from sanac.nn.calibration.inputs import Inputs
from sanac.nn.calibration.settings import FEWEST

PATIENCE = 3600.0  # seconds that a job may take without --yes


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """Estimated seconds and memory of a job, and the settings that the estimate depends on."""

    what: str
    seconds: float
    memory: int
    device: str
    inputs: Inputs
    prompts: int
    steps: int

    memory_is_known: bool = False  # whether a step before this one reported the memory of both

    def check_budget(self, reporter: Reporter, *, yes: bool, cheaper: Sequence[str] = ()) -> None:
        """Report the estimate; MissingResource, with cheaper options, if it exceeds an hour without `yes`."""
        memory = self.memory + (int(OVERHEAD) if self.device == "cpu" else 0)
        needs = f"about {duration_text(self.seconds)} on {self.device}"
        needs += "" if self.memory_is_known else f", {bytes_text(memory)} of memory"
        reporter.note(f"{self.what} ({self.inputs.source}): {needs}")
        if self.seconds <= PATIENCE or yes:
            return
        fewer = {"--num-prompts": (self.prompts, max(FEWEST, self.prompts // 10))}
        fewer["--timesteps"] = (self.steps, max(1, self.steps // 4))
        ways = [
            f"{option} {less} (about {duration_text(self.seconds * less / count)})"
            for option, (count, less) in fewer.items()
            if less < count
        ]
        ways += [*cheaper, *(["--embeddings FILE (it has no text encoder)"] if self.inputs.needs_encoder else [])]
        raise MissingResource(
            f"{self.what} would take about {duration_text(self.seconds)} here",
            why="the model is large and runs on the CPU" if self.device == "cpu" else "the model is large",
            hint=f"{', '.join(ways)}, a machine with a GPU, or --yes" if ways else "a machine with a GPU, or --yes",
        )
