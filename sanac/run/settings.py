"""Settings of `sanac run`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from sanac.core.settings import ModelRef, Option, Settings


@dataclass(frozen=True, kw_only=True)
class RecipeRunSettings(Settings):
    """Run the stages of RECIPE, a TOML file or the name of a bundled one, and hold the outcome to its gates.

    All mistakes in it are reported at once, before anything begins. A stage that was done and whose outcome is still
    there is not done again; a run that was stopped continues inside the stage. Exit 5 if a gate fails.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac run demo",
        "sanac run recipe.toml --dry-run",
        "sanac run recipe.toml --workspace build --junit build/gates.xml --json",
    )

    model: Annotated[ModelRef | None, Option("Another model than the recipe's.", "MODEL", recipe=False)] = None
    workspace: Annotated[Path, Option("Where everything is written.", "DIR", recipe=False)] = Path("sanac-out")
    dry_run: Annotated[bool, Option("Print stages, sizes, memory and time; run nothing.", recipe=False)] = False
    junit: Annotated[Path | None, Option("Write the verdicts as a JUnit file, too.", "FILE", recipe=False)] = None
    mlflow: Annotated[
        str | None, Option("Log settings, numbers and measurements to this experiment.", "EXPERIMENT", recipe=False)
    ] = None
    push_to_hub: Annotated[
        str | None, Option("Push the final model to the hub, if its gates pass.", "OWNER/NAME", recipe=False)
    ] = None
    public: Annotated[bool, Option("Make a repository that --push-to-hub creates public.", recipe=False)] = False


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Show on a small model what sanac does, in about a minute on two cores.

    Prunes sanac:tiny from 12 to 8 blocks, quantizes it to int8, scores all three models and writes a sheet of their
    pictures from the same prompts and noises. This is the bundled recipe `quick`; `sanac run demo` is the whole job.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("sanac demo", "sanac demo --dry-run", "sanac demo --workspace build/demo")

    workspace: Annotated[Path, Option("Where everything is written.", "DIR", recipe=False)] = Path("sanac-demo")
    dry_run: Annotated[bool, Option("Print stages, sizes, memory and time; run nothing.", recipe=False)] = False
