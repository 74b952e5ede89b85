"""What `prune` computes before it cuts: a search for the blocks that stay, a repair of what the gaps tear.

Both are kept in the workspace under their content keys, so a rerun reads them. What can't be read there is not there.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from sanac.core import jsonfile
from sanac.core.copying import digest_file
from sanac.core.execute import Surgery, Writing, decide
from sanac.core.header import read_header
from sanac.core.lora import Addition
from sanac.core.model import Model
from sanac.core.plan import keep_blocks
from sanac.core.talk import Talk
from sanac.core.workfile import keep, lying
from sanac.nn.asked import Wanted, not_without
from sanac.nn.block import POINT
from sanac.nn.calibrate import Calibration, calibration
from sanac.nn.states import Share, States
from sanac.nn.subsets import Kept
from sanac.prune.compensate import RIDGES, ROUNDS, Repair, fit, gaps_of
from sanac.prune.search import TRIED, search
from sanac.prune.select import Choice

SEARCH_SCHEMA = 1  # raised when the same settings would choose other blocks
REPAIR_SCHEMA = 1  # raised when the same settings would give other changes
BEAM = 4
EVERY = 4  # of the sampler's steps, which the search looks at
SEARCHED = 32  # prompts that it looks at
SWAPS = 3  # rounds of swaps, about


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
    states = calibration(model, wanted, EVERY)
    share = Share.of(states.memory_limit // 4, states.state_bytes, BEAM * blocks)
    states = states.within(share.taken(states.state_bytes), 0, talk)
    settings = {"schema": SEARCH_SCHEMA, "choice": asdict(choice), "beam": BEAM, **states.settings}
    key = jsonfile.key_of(["search", settings, model.identity()])
    file = workspace / f"search-{key[:8]}" / "search.json"
    known = lying(file, key, {"kept": list, "error": float})
    if known is not None:
        return Searched(tuple(known["kept"]), known["error"], settings)
    forwards, sweeps = _search_forwards(blocks, choice.target), _search_rounds(blocks, choice.target)
    sweeps *= share.sweeps(states.count * states.moments, BEAM * blocks)
    states.announce("searching", states.seconds(forwards, readings=sweeps), talk, yes=wanted.yes)
    if wanted.dry:
        raise not_without("the search")
    with torch.no_grad():
        fitted, judged = states.states([1])
        judge = _Judge(fitted, share, file.with_name("seen.json"), key)
        found = search(blocks, choice.target, frozenset(choice.protected(blocks)), judge, beam=BEAM, talk=talk)
        kept = found[-1].kept
        error = float(judged.errors([kept], share)[kept].mean())
    steps = [{"kept": list(step.kept), "error": step.error} for step in found]
    keep(file, {"key": key, "kept": list(kept), "error": error, "steps": steps})
    return Searched(kept, error, settings)


class _Judge:
    """The mean error of subsets; what was seen is kept, so that a stopped search soon is where it was."""

    def __init__(self, states: States, share: Share, file: Path, key: str) -> None:
        self.states, self.share, self.file, self.key = states, share, file, key
        known = lying(file, key, {"seen": dict})
        self.seen: dict[str, float] = known["seen"] if known else {}

    def __call__(self, choices: list[Kept]) -> dict[Kept, float]:
        """NaN counts as infinitely bad."""
        names = {kept: ",".join(map(str, kept)) for kept in choices}
        unseen = [kept for kept in choices if names[kept] not in self.seen]
        if unseen:
            for kept, errors in self.states.errors(unseen, self.share).items():
                error = float(errors.mean())
                self.seen[names[kept]] = error if math.isfinite(error) else 1e300
            keep(self.file, {"key": self.key, "seen": self.seen})
        return {kept: self.seen[name] for kept, name in names.items()}


def _search_rounds(blocks: int, target: int) -> int:
    """About how often a search asks."""
    return blocks - target + SWAPS


def _search_forwards(blocks: int, target: int) -> float:
    """About how many forwards of the whole model a search takes: half a forward for each subset it looks at."""
    rounds = sum(0.5 * BEAM * left * left / blocks for left in range(target + 1, blocks + 1))
    return rounds + SWAPS * 0.5 * min(TRIED, target * (blocks - target)) * target / blocks


def decide_searched(model: Model, choice: Choice, found: Searched, writing: Writing) -> Surgery:
    """The prune job that keeps what the search found."""
    settings = {name: value for name, value in asdict(choice).items() if name != "target"}
    plan = keep_blocks(model.architecture.blocks, list(found.kept))
    return decide("prune", model, plan, settings | {"search": dict(found.settings)}, writing)


def repair_states(model: Model, wanted: Wanted, talk: Talk) -> Calibration:
    """What a repair is fitted on; refuses at once what can't be done in this memory."""
    states = calibration(model, wanted, every=1)
    outputs, inputs = _point_shape(model)
    fixed = 8 * (states.moments * inputs**2 + (len(RIDGES) + 6) * outputs * inputs)
    return states.within(fixed, 2 * states.moments * (states.state_bytes + states.caption_bytes), talk)


def _point_shape(model: Model) -> tuple[int, int]:
    outputs, inputs = model.weights.tensors[f"transformer_blocks.0.{POINT}"].shape[:2]
    return outputs, inputs


def with_repair(job: Surgery, states: Calibration) -> Surgery:
    """The job as one that will be repaired: another artifact than without. Nothing is computed yet."""
    settings = {**job.settings, "compensate": {"schema": REPAIR_SCHEMA, **states.settings}}
    return replace(job, settings=settings, key=jsonfile.key_of([job.key, settings["compensate"]]))


@dataclass(frozen=True, slots=True)
class Mending:
    """Where the repair of a job lies: the same for every layout that the job is written in."""

    job: Surgery
    states: Calibration
    workspace: Path
    yes: bool = False  # whether it may take more than an hour

    @property
    def kept(self) -> Kept:
        """The blocks that stay."""
        return tuple(index for index in self.job.plan.sources if index is not None)

    def announce(self, talk: Talk) -> None:
        """Say how long fitting will take; more than an hour has to be wanted."""
        outputs, inputs = _point_shape(self.states.model)
        gaps = len(gaps_of(self.kept, self.states.model.architecture.blocks))
        solving = 2.0 * gaps * len(RIDGES) * ROUNDS * self.states.moments * outputs * inputs**2
        seconds = self.states.seconds(3.0, more=solving, readings=3)
        self.states.announce("repairing", seconds, talk, yes=self.yes)

    @property
    def key(self) -> str:
        """Equal where the same changes are found."""
        return jsonfile.key_of(["repair", self.job.settings["compensate"], self.job.identity, self.job.plan.to_json()])

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.workspace / f"repair-{self.key[:8]}"

    def report(self) -> dict[str, Any] | None:
        """What the repair did, if it was fitted before and lies there undamaged."""
        known = lying(
            self.folder / "repair.json",
            self.key,
            {"changes": str, "velocity_error": dict, "left_out": bool, "gaps": list},
        )
        changes = self.folder / "changes.safetensors"
        whole = known is not None and changes.is_file() and digest_file(changes) == known["changes"]
        return known if whole else None

    def mended(self, talk: Talk) -> Surgery:
        """The job with its additions, fitted now or before."""
        report = self.report()
        if report is None:
            self.announce(talk)
            with torch.no_grad():
                found, report = _fitted(self.states, self.kept, talk)
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / "changes.partial"
            save_file({name: change.cpu().contiguous() for name, change in found.changes.items()}, partial)
            report |= {"key": self.key, "changes": digest_file(partial)}
            partial.replace(self.folder / "changes.safetensors")
            keep(self.folder / "repair.json", report)
        additions = read_header(self.folder / "changes.safetensors").tensors
        return replace(
            self.job,
            additions={name: Addition(ref) for name, ref in additions.items()},
            filled_digest=report["changes"],
        )


def _fitted(states: Calibration, kept: Kept, talk: Talk) -> tuple[Repair, dict[str, Any]]:
    """Fitted on most prompts, ridges chosen by a fifth of them, judged by another."""
    fitted, chosen, judged = states.states([1, 1])
    found = fit(fitted, chosen, kept, talk)
    before, after = (float(states.errors([kept])[kept].mean()) for states in (judged, judged.changed(found.changes)))
    if not after <= before:
        talk.warn(f"the repair made the velocity worse ({before:.4f} -> {after:.4f}) and is left out")
        found, after = Repair(), before
    report = {
        "velocity_error": {"pruned": before, "repaired": after},
        "left_out": not found.changes,
        "gaps": [asdict(gap) for gap in found.gaps],
    }
    return found, report
