"""How `sanac prune` chooses blocks by default: by a search, with a repair, if that is quick, else by importance.

On sanac:tiny a search with a repair keeps far more than importance does (docs/prune.md), for minutes of computing; on
the 4.8B model it takes hours, which nobody should wait for without having asked.
"""

from dataclasses import replace

from sanac.core.artifact.model import Model
from sanac.core.confined import ConfinedPath
from sanac.core.errors import MissingResource, UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.core.units import duration_text
from sanac.nn.device import free_memory
from sanac.prune.repair_job import repair_states
from sanac.prune.search_job import plan_search
from sanac.prune.selection import BlockSelection
from sanac.prune.settings import PruneSettings

QUICK = 300.0  # seconds that a search and a repair may take by default


def with_selection(model: Model, settings: PruneSettings, depth: int, reporter: Reporter) -> PruneSettings:
    """The settings with a method of selection: `search` and a repair where both are quick, else `bi`."""
    importance = replace(settings, select="bi")
    if settings.scores is not None or settings.data is not None or settings.reduce != "token":
        return importance
    selection = BlockSelection("search", depth, settings.protect_first, settings.protect_last)
    try:
        search = plan_search(model, selection, settings, ConfinedPath(settings.workspace), NULL_REPORTER)
        states = repair_states(model, settings, NULL_REPORTER)
    except (UsageError, MissingResource):  # fewer prompts than they need, or less memory
        return importance
    seconds = search.seconds + states.seconds(3.0, readings=3)
    fits = max(search.states.memory, states.memory) <= free_memory(states.device)
    if search.load() is None and not (fits and seconds <= QUICK):
        took = f"--select search --compensate would take about {duration_text(seconds)}"
        reporter.note(f"ranking blocks by importance ({took})")
        return importance
    reporter.note(f"searching for blocks and repairing, about {duration_text(seconds)} (--select bi: by importance)")
    return replace(settings, select="search", compensate=True)
