"""What `prune` computes before it cuts: a search for the blocks that stay, a repair of what the gaps tear.

Both are kept in the workspace under their content keys, so a rerun reads them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sanac.core import jsonfile
from sanac.core.errors import BadInput
from sanac.core.execute import Surgery, Writing, decide
from sanac.core.header import read_header
from sanac.core.lora import Addition
from sanac.core.model import Model
from sanac.core.plan import keep_blocks
from sanac.core.stage import write_flushed
from sanac.core.talk import Talk
from sanac.nn.subsets import Kept
from sanac.prune.calibrate import Calibration, calibration
from sanac.prune.compensate import Repair, error_after, fit
from sanac.prune.measure import Wanted
from sanac.prune.search import search
from sanac.prune.select import Choice

SEARCH_SCHEMA = 1  # raised when the same settings would choose other blocks
REPAIR_SCHEMA = 1  # raised when the same settings would give other changes
BEAM = 4
EVERY = 4  # of the sampler's steps, which the search looks at
SEARCHED = 32  # prompts that it looks at


@dataclass(frozen=True, slots=True)
class Searched:
    """The blocks that a search found, and how far the velocity is off without the others."""

    kept: Kept
    error: float  # on prompts that the search didn't see
    settings: Mapping[str, Any]


def find_blocks(model: Model, choice: Choice, wanted: Wanted, workspace: Path, talk: Talk) -> Searched:
    """Search for the blocks that stay, or read what was found before."""
    blocks = model.architecture.blocks
    choice.check(blocks)
    if wanted.num_prompts is None and wanted.prompts is None and wanted.embeddings is None:
        wanted = replace(wanted, num_prompts=SEARCHED)
    states = calibration(model, wanted, EVERY).within(BEAM * blocks, talk)
    settings = {"schema": SEARCH_SCHEMA, "choice": asdict(choice), "beam": BEAM, **states.settings}
    key = jsonfile.key_of(["search", settings, model.identity()])
    file = workspace / f"search-{key[:8]}" / "search.json"
    known = _known(file, key)
    if known is not None:
        return Searched(tuple(known["kept"]), known["error"], settings)
    states.announce("searching", _search_forwards(blocks, choice.target), talk, yes=wanted.yes)
    with torch.no_grad():
        fitted, judged = states.states()
        found = search(
            blocks,
            choice.target,
            frozenset(choice.protected(blocks)),
            lambda choices: {kept: float(error.mean()) for kept, error in fitted.errors(choices).items()},
            beam=BEAM,
            talk=talk,
        )
        kept = found[-1].kept
        error = float(judged.errors([kept])[kept].mean())
    steps = [{"kept": list(step.kept), "error": step.error} for step in found]
    _keep(file, {"key": key, "kept": list(kept), "error": error, "steps": steps})
    return Searched(kept, error, settings)


def _search_forwards(blocks: int, target: int) -> float:
    """About how many forwards of the whole model a search takes: half a forward for each subset it looks at."""
    return sum(0.5 * BEAM * left * left / blocks for left in range(target + 1, blocks + 1)) + target


def decide_searched(model: Model, choice: Choice, found: Searched, writing: Writing) -> Surgery:
    """The prune job that keeps what the search found."""
    settings = {name: value for name, value in asdict(choice).items() if name != "target"}
    plan = keep_blocks(model.architecture.blocks, list(found.kept))
    return decide("prune", model, plan, settings | {"search": dict(found.settings)}, writing)


def with_repair(job: Surgery, wanted: Wanted) -> tuple[Surgery, Calibration]:
    """The job as one that will be repaired: another artifact than without. Nothing is computed yet."""
    states = calibration(job.model, wanted, every=1)
    settings = {**job.settings, "compensate": {"schema": REPAIR_SCHEMA, **states.settings}}
    key = jsonfile.key_of([job.key, settings["compensate"]])
    return replace(job, settings=settings, key=key), states


def repair(
    job: Surgery, states: Calibration, workspace: Path, talk: Talk, *, yes: bool
) -> tuple[Surgery, dict[str, Any]]:
    """The job with its additions, fitted now or before; and what they did."""
    folder = workspace / f"repair-{job.key[:8]}"
    report = _known(folder / "repair.json", job.key)
    changes = folder / "changes.safetensors"
    if report is None or not changes.is_file():
        kept = tuple(index for index in job.plan.sources if index is not None)
        states = states.within(8, talk)
        states.announce("repairing", 3.0, talk, yes=yes)
        with torch.no_grad():
            found, report = _fitted(states, kept, talk)
        folder.mkdir(parents=True, exist_ok=True)
        partial = changes.with_suffix(".partial")
        save_file({name: change.cpu().contiguous() for name, change in found.changes.items()}, partial)
        partial.replace(changes)
        _keep(folder / "repair.json", {"key": job.key, **report})
    additions = {name: Addition(ref) for name, ref in read_header(changes).tensors.items()}
    strange = [name for name, added in additions.items() if added.change.shape != job.model.weights.tensors[name].shape]
    if strange:
        raise BadInput(f"{changes} doesn't fit the model", why=strange[0], hint=f"delete {folder}")
    return replace(job, additions=additions), report


def _fitted(states: Calibration, kept: Kept, talk: Talk) -> tuple[Repair, dict[str, Any]]:
    fitted, judged = states.states()
    found = fit(fitted, judged, kept, talk)
    before, after = (float(error_after(judged, kept, changes).mean()) for changes in ({}, found.changes))
    if after > before:
        talk.warn(f"the repair made the velocity worse ({before:.4f} -> {after:.4f}) and is left out")
        found, after = Repair(), before
    report = {"velocity_error": {"pruned": before, "repaired": after}, "gaps": [asdict(gap) for gap in found.gaps]}
    return found, report


def _known(file: Path, key: str) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    found = jsonfile.read_object(file)
    return dict(found) if found.get("key") == key else None


def _keep(file: Path, found: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    write_flushed(partial, jsonfile.pretty(dict(found)))
    partial.replace(file)
