"""Quantized values that were fitted to what layers are given: GPTQ in one sweep over the blocks.

Calibration states go through block after block, each as quantizing left those before it. What is found lies in the
workspace, a file per block: a stopped run goes on behind the last one.
"""

import shutil
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sanac.core import jsonfile
from sanac.core.copying import digest_file
from sanac.core.errors import BadInput
from sanac.core.execute import Surgery
from sanac.core.family import block_name, split_block
from sanac.core.header import read_header
from sanac.core.quantized import PACKED, Packing, part_name
from sanac.core.talk import Talk
from sanac.core.workfile import keep, lying
from sanac.core.writer import kept
from sanac.nn.asked import Wanted
from sanac.nn.block import Condition, Tensors, block
from sanac.nn.calibrate import Calibration, calibration
from sanac.nn.quantize import ROUNDINGS, pack, restored
from sanac.nn.states import States
from sanac.nn.weights import DTYPES, map_tensor
from sanac.quantize.gptq import corrected, order_and_factor

SCHEMA = 1  # raised when the same settings would give other values
REPORT = "fit.json"
EVERY = 4  # of the sampler's steps, which are looked at
PROMPTS = 32
_SAME = {  # weights that are given the same as another
    "attn1.to_k.weight": "attn1.to_q.weight",
    "attn1.to_v.weight": "attn1.to_q.weight",
    "attn2.to_v.weight": "attn2.to_k.weight",
}


def fitting_states(job: Surgery, wanted: Wanted, talk: Talk) -> Calibration:
    """What values are fitted to; refuses at once what can't be done in this memory."""
    packings = job.repacked["transformer"].quantized.weights
    if wanted.num_prompts is None and wanted.prompts is None and wanted.embeddings is None:
        wanted = replace(wanted, num_prompts=PROMPTS)
    states = calibration(job.model, wanted, EVERY, least=1)
    widths = _widths(packings)
    solving = max(5 * 8 * packing.columns**2 + 16 * packing.shape[0] * packing.columns for packing in packings.values())
    fixed = sum(8 * width**2 for width in widths.values()) + solving
    return states.within(fixed, states.moments * (states.state_bytes + states.caption_bytes), talk)


def _widths(packings: Mapping[str, Packing]) -> dict[str, int]:
    """How many inputs a block's layers have, those apart that are given different things."""
    inside = ((split_block(name), packing) for name, packing in packings.items())
    found = {place[1]: packing.columns for place, packing in inside if place}
    return {_SAME.get(name, name): width for name, width in found.items()}


def with_fit(job: Surgery, states: Calibration) -> Surgery:
    """The job as one whose values will be fitted: another artifact than without. Nothing is computed yet."""
    settings = {**job.settings, "fit": {"schema": SCHEMA, **states.settings}}
    return replace(job, settings=settings, key=jsonfile.key_of([job.key, settings["fit"]]))


@dataclass(frozen=True)
class Fitting:
    """A job whose values are to be fitted."""

    job: Surgery
    states: Calibration
    workspace: Path
    yes: bool = False  # whether it may take more than an hour
    fresh: bool = False  # begin anew, whatever lies there

    @property
    def packings(self) -> Mapping[str, Packing]:
        """By weight."""
        return self.job.repacked["transformer"].quantized.weights

    @cached_property
    def key(self) -> str:
        """Equal where the same values are found."""
        quantized = self.job.repacked["transformer"].quantized
        how = {name: [packing.scheme, packing.block, packing.rounding] for name, packing in self.packings.items()}
        return jsonfile.key_of([self.job.settings["fit"], self.job.identity, quantized.layout, quantized.dtype, how])

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.workspace / f"fit-{self.key[:8]}"

    def announce(self, talk: Talk) -> None:
        """Say how long fitting will take; more than an hour has to be wanted."""
        states, blocks = self.states, self.states.model.architecture.blocks
        tokens = states.tokens * states.moments * states.count
        sums = 2.0 * blocks * tokens * sum(width**2 for width in _widths(self.packings).values())
        solving = sum(2.0 * how.shape[0] * how.columns**2 + how.columns**3 for how in self.packings.values())
        self.states.announce("fitting", states.seconds(2.0, more=sums + solving, readings=2), talk, yes=self.yes)

    def report(self) -> dict[str, Any] | None:
        """What was fitted before, if it lies there undamaged."""
        known = lying(self.folder / REPORT, self.key, {"files": dict})
        whole = known and all(_has(self.folder / name, digest) for name, digest in known["files"].items())
        return known if whole else None

    def fitted(self, talk: Talk) -> Surgery:
        """The job with its values, fitted now or before."""
        report = None if self.fresh else self.report()
        if report is None:
            self.announce(talk)
            report = self._fit(talk)
        part = self.job.repacked["transformer"]
        refs = {name: ref for file in report["files"] for name, ref in read_header(self.folder / file).tensors.items()}
        pieces = (
            replace(kept(piece.name, refs[piece.name]), with_next=piece.with_next) if piece.name in refs else piece
            for piece in part.pieces
        )
        repacked = {**self.job.repacked, "transformer": replace(part, pieces=tuple(pieces))}
        return replace(self.job, repacked=repacked, filled_digest=digest_file(self.folder / REPORT))

    def _fit(self, talk: Talk) -> dict[str, Any]:
        if self.fresh or (self.folder / REPORT).exists():  # it was whole once, and isn't any more
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        files = {}
        with torch.no_grad():
            states = self.states.whole()
            sweep = _Sweep(self, states)
            blocks = range(len(states.blocks))
            talk.begin("fitting", len(blocks), "blocks")
            try:
                for index, tensors in states.blocks.sweep(blocks):
                    file = self.folder / f"block-{index:03d}.safetensors"
                    sweep.advance(index, tensors, file)
                    files[file.name] = digest_file(file)
                    talk.advance(1)
            finally:
                talk.end()
        report = {"key": self.key, "files": files}
        keep(self.folder / REPORT, report)
        return report


def _has(file: Path, digest: str) -> bool:
    return file.is_file() and digest_file(file) == digest


class _Sweep:
    """The states, as quantizing left the blocks so far."""

    def __init__(self, fitting: Fitting, states: States) -> None:
        self.key, self.packings, self.geometry = fitting.key, fitting.packings, states.geometry
        quantized = fitting.job.repacked["transformer"].quantized
        self.layout, self.dtype = quantized.layout, DTYPES[quantized.dtype]
        self.streams = [start for part in states.parts() for moment in part.moments for start in part.starts(moment)]

    def advance(self, index: int, tensors: Tensors, file: Path) -> None:
        """Fit a block's values, if that was not done before, and take the states through it."""
        names = {rest: block_name(index, rest) for rest in tensors}
        packings = {rest: self.packings[name] for rest, name in names.items() if name in self.packings}
        scales = {rest: ROUNDINGS[how.rounding](tensors[rest], how, self.dtype) for rest, how in packings.items()}
        stored = self._read(file, names)
        if stored is None:
            stored = self._fit(tensors, packings, scales, index)
            self._write(file, {names[rest]: values for rest, values in stored.items()})
        fitted = {
            rest: restored(stored[rest].to(scales[rest].device), scales[rest], how, torch.float32)
            for rest, how in packings.items()
        }
        for number, start in enumerate(self.streams):
            state = block({**tensors, **fitted}, start.state, start.condition, self.geometry)
            self.streams[number] = replace(start, state=state)

    def _fit(self, tensors: Tensors, packings: Mapping[str, Packing], scales: Tensors, index: int) -> dict[str, Tensor]:
        sums: dict[str, Tensor] = {}
        wanted = {_SAME.get(rest, rest) for rest in packings}
        for start in self.streams:
            block(tensors, start.state, start.condition, self.geometry, _Sums(sums, wanted, start.condition))
        if not all(bool(torch.isfinite(gram).all()) for gram in sums.values()):
            raise BadInput(f"block {index} is given NaN or infinity", hint="sanac inspect MODEL --scan")
        solved = {name: order_and_factor(sums.pop(name)) for name in list(sums)}
        found = {}
        for rest, packing in packings.items():
            values = corrected(tensors[rest], scales[rest], *solved[_SAME.get(rest, rest)], packing)
            values = pack(values) if self.layout == PACKED and packing.form == "int4" else values
            found[rest] = values.view(packing.stored_shape(self.layout))
        return found

    def _read(self, file: Path, names: Mapping[str, str]) -> dict[str, Tensor] | None:
        """What a stopped run left of a block."""
        try:
            header = read_header(file)
        except BadInput:
            return None
        if header.metadata.get("key") != self.key:
            return None
        return {
            rest: map_tensor(header.tensors[_stored(name)]) for rest, name in names.items() if name in self.packings
        }

    def _write(self, file: Path, values: Tensors) -> None:
        partial = file.with_suffix(".partial")
        save_file({_stored(name): stored.cpu() for name, stored in values.items()}, partial, {"key": self.key})
        partial.replace(file)


@dataclass(frozen=True, slots=True)
class _Sums:
    """X'X of what layers are given, gathered while a block is computed."""

    sums: dict[str, Tensor]
    wanted: AbstractSet[str]
    condition: Condition

    def __call__(self, name: str, given: Tensor) -> None:
        """Add what a layer is given: each token a row of X."""
        if name not in self.wanted:
            return
        rows = given.permute(0, 2, 3, 1) if given.ndim == 4 else given
        if name == "attn2.to_k.weight" and self.condition.bias is not None:
            rows = rows[self.condition.bias[:, 0] == 0]  # padding is not looked at
        rows = rows.flatten(0, -2)
        self.sums[name] = self.sums.get(name, 0) + (rows.T @ rows).double()


def _stored(name: str) -> str:
    return part_name(name, "qdata")
