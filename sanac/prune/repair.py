"""A closed-form repair at each gap: what the dropped blocks would have added, folded into weights that are there.

The block before a gap ends in y = x + g * (W z): `ff.conv_point` is W, z its input, g the gate, one number per channel
and timestep. W gets dW so that the stream leaves the block nearer to where the dropped blocks would have taken it:

    minimise  sum over tokens |delta - g_t * (dW z)|^2  +  ridge * |dW|^2,     delta = teacher at the gap's end - y

Channels of the output don't meet in it, but each has a Gram matrix of its own, sum over t of g_tc^2 K_t, with
K_t = sum of z z' over the tokens of one timestep. The K_t are all that is kept of z; no channel's own Gram is ever
formed: conjugate gradients multiply by the K_t. A gap before the first block that stays folds into `patch_embed.proj`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor

from sanac.core.family.architecture import block_name
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.nn.blocks.block import POINT, Conditioning, Geometry, before_conv_point, block, conv_point
from sanac.nn.blocks.embed_head import BlockInputs
from sanac.nn.calibration.block_subsets import BlockSubset
from sanac.nn.calibration.states import CalibrationStates

Tensors = Mapping[str, Tensor]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # of a Gram matrix's mean diagonal: each gap takes what suits other prompts best
ROUNDS = 60  # of conjugate gradients, at most
TOLERANCE = 1e-5  # of the residual, relative
EMBEDDING = "patch_embed.proj"


@dataclass(frozen=True, slots=True)
class Gap:
    """How far the student was from the teacher behind a gap, on the prompts that the ridge was chosen by."""

    first: int  # of the dropped blocks
    last: int
    before: float  # |teacher - student|^2 / |teacher|^2
    after: float
    ridge: float | None  # None: no change was better


@dataclass
class Repair:
    """What the fit found: changes of weights under the source's names, and what became of every gap."""

    changes: dict[str, Tensor] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)


@dataclass
class _Stream:
    """One branch at one moment, on both ways through the blocks."""

    moment: int
    start: BlockInputs
    latents: Tensor  # latents
    teacher: Tensor
    student: Tensor


@dataclass
class Sums:
    """The normal equations of one gap, gathered token by token; a group's gate is constant."""

    grams: dict[int, Tensor] = field(default_factory=dict)  # group -> K (inputs, inputs)
    gates: dict[int, Tensor] = field(default_factory=dict)  # group -> g (outputs)
    right: Tensor | None = None  # sum of g * delta z': (outputs, inputs)

    def add(self, group: int, gate: Tensor, activations: Tensor, delta: Tensor) -> None:
        """Tokens of one group: `given` (tokens, inputs) and `delta` (tokens, outputs)."""
        activations = activations.double()
        self.grams[group] = self.grams.get(group, 0) + activations.T @ activations
        self.gates[group] = gate.double()
        right = (delta.double() * gate.double()).T @ activations
        self.right = right if self.right is None else self.right + right

    def solve(self, ridge: float) -> Tensor:
        """DW (outputs, inputs)."""
        assert self.right is not None, "nothing was added"
        diagonal = sum(self.gates[group].square()[:, None] * self.grams[group].diagonal()[None] for group in self.grams)
        assert isinstance(diagonal, Tensor)
        damping = ridge * diagonal.mean(dim=1, keepdim=True) + torch.finfo(torch.float64).tiny
        return _conjugate_gradients(self._product, self.right, damping, diagonal + damping)

    def _product(self, change: Tensor) -> Tensor:
        """Every channel's Gram matrix times its row of `change`."""
        found = torch.zeros_like(change)
        for group, gram in self.grams.items():
            found += self.gates[group].square()[:, None] * (change @ gram)
        return found


def _conjugate_gradients(
    product: Callable[[Tensor], Tensor], right: Tensor, damping: Tensor, diagonal: Tensor
) -> Tensor:
    """Rows are systems of their own; preconditioned by the diagonal."""
    solution = torch.zeros_like(right)
    residual = right.clone()
    searched = residual / diagonal
    direction, energy = searched, (residual * searched).sum(dim=1, keepdim=True)
    goal = TOLERANCE * right.norm()
    for _ in range(ROUNDS):
        if residual.norm() <= goal:
            break
        image = product(direction) + damping * direction
        step = energy / (direction * image).sum(dim=1, keepdim=True).clamp_min(1e-300)
        solution, residual = solution + step * direction, residual - step * image
        searched = residual / diagonal
        renewed = (residual * searched).sum(dim=1, keepdim=True)
        direction, energy = searched + renewed / energy.clamp_min(1e-300) * direction, renewed
    return solution


def gaps_of(kept: BlockSubset, blocks: int) -> dict[int, int]:
    """The block before each gap -> the last block that is missing; -1 stands for the embedding."""
    stops = (*kept[1:], blocks) if kept else (blocks,)
    found = {index: stop - 1 for index, stop in zip(kept, stops, strict=True) if stop - 1 > index}
    return ({-1: kept[0] - 1} if kept and kept[0] > 0 else {}) | found


@dataclass
class _StreamSet:
    """The streams of some prompts."""

    states: CalibrationStates
    streams: list[_Stream]

    @classmethod
    def of(cls, states: CalibrationStates) -> "_StreamSet":
        """Both ways begin at the same embedding."""
        return cls(
            states,
            [
                _Stream(
                    number, replace(start, state=start.state.new_empty(0)), moment.latents, start.state, start.state
                )
                for part in states.parts()
                for number, moment in enumerate(part.moments)
                for start in part.starts(moment)
            ],
        )

    def teach(self, tensors: Tensors) -> None:
        """Take the teacher's streams through a block."""
        for stream in self.streams:
            stream.teacher = block(tensors, stream.teacher, stream.start.conditioning, self.states.geometry)

    def learn(self, tensors: Tensors) -> None:
        """Take the student's streams through a block."""
        for stream in self.streams:
            stream.student = block(tensors, stream.student, stream.start.conditioning, self.states.geometry)


def fit(
    fitted: CalibrationStates, chosen: CalibrationStates, kept: BlockSubset, reporter: Reporter = NULL_REPORTER
) -> Repair:
    """Front to back: each gap sees what the repairs before it left. Ridges are chosen by states of their own."""
    repair, stream_sets = Repair(), (_StreamSet.of(fitted), _StreamSet.of(chosen))
    gaps = gaps_of(kept, len(fitted.blocks))
    reporter.begin("repairing", len(fitted.blocks), "blocks")
    try:
        _teach(stream_sets, 0, gaps.get(-1, -1), reporter)
        if -1 in gaps:
            _repair_embedding(stream_sets, gaps[-1], repair)
        for index in kept:
            tensors = _teach(stream_sets, index, gaps.get(index, index), reporter)
            if index in gaps:
                tensors = _repair_block(stream_sets, tensors, index, gaps[index], repair)
            for stream_set in stream_sets:
                stream_set.learn(tensors)
    finally:
        reporter.end()
    return repair


def _teach(stream_sets: Sequence[_StreamSet], first: int, last: int, reporter: Reporter) -> Tensors:
    """Take the teacher's streams through the blocks from `first` to `last`; the tensors of the first."""
    found: Tensors = {}
    for index in range(first, last + 1):
        tensors = stream_sets[0].states.blocks.block(index)
        found = found or tensors
        for stream_set in stream_sets:
            stream_set.teach(tensors)
        reporter.advance(1)
    return found


def _repair_block(
    stream_sets: Sequence[_StreamSet], tensors: Tensors, index: int, last: int, repair: Repair
) -> Tensors:
    """Fit the last operation of the block before a gap; its tensors with what was found."""
    weight, geometry = tensors[POINT], stream_sets[0].states.geometry
    sums = Sums()
    for stream in stream_sets[0].streams:
        activations, gate, after = last_operation(tensors, stream.student, stream.start.conditioning, geometry)
        sums.add(stream.moment, gate, activations, (stream.teacher - after).flatten(0, 1))
    name = block_name(index, POINT)
    candidates: dict[float | None, Tensor] = {None: torch.zeros_like(weight)}
    for strength in RIDGES:
        change = sums.solve(strength).to(weight.dtype).reshape(weight.shape)
        candidates[strength] = stream_sets[0].states.as_stored(name, weight + change) - weight
    errors = dict.fromkeys(candidates, 0.0)
    for stream in stream_sets[1].streams:
        activations, gate, after = last_operation(tensors, stream.student, stream.start.conditioning, geometry)
        missing, whole = stream.teacher - after, stream.teacher.double().square().sum()
        for candidate, change in candidates.items():
            errors[candidate] += _share(
                missing - (gate * (activations @ change.flatten(1).T)).reshape(missing.shape), whole
            )
    ridge = min(errors, key=lambda candidate: errors[candidate])
    shown = len(stream_sets[1].streams)
    repair.gaps.append(Gap(index + 1, last, errors[None] / shown, errors[ridge] / shown, ridge))
    if ridge is None:
        return tensors
    repair.changes[name] = candidates[ridge]
    return {**tensors, POINT: weight + candidates[ridge]}


def _share(difference: Tensor, whole: Tensor) -> float:
    """Of the teacher's energy, what the student is apart; NaN counts as infinitely far."""
    found = float(difference.double().square().sum() / whole)
    return found if math.isfinite(found) else math.inf


def last_operation(
    tensors: Tensors, state: Tensor, condition: Conditioning, geometry: Geometry
) -> tuple[Tensor, Tensor, Tensor]:
    """A block's last operation: its input (tokens, H), its gate (C) and the block's output (B, N, C)."""
    state, activations, gate = before_conv_point(tensors, state, condition, geometry)
    return (
        activations.flatten(2).transpose(1, 2).flatten(0, 1),
        gate[0, 0],
        state + gate * conv_point(tensors, activations),
    )


def _repair_embedding(stream_sets: Sequence[_StreamSet], last: int, repair: Repair) -> None:
    """No gate, and a bias: one Gram matrix serves all channels."""
    outside = stream_sets[0].states.outside
    weight, bias = outside[f"{EMBEDDING}.weight"], outside[f"{EMBEDDING}.bias"]
    gram = right = torch.zeros((), dtype=torch.float64, device=weight.device)
    for stream in stream_sets[0].streams:
        patches = _patches(stream.latents, weight)
        gram = gram + patches.T @ patches
        right = right + patches.T @ (stream.teacher - stream.student).flatten(0, 1).double()
    candidates: dict[float | None, Tensor] = {None: torch.zeros_like(right)}
    for strength in RIDGES:
        damping = (strength * gram.diagonal()[:-1].mean()).expand(len(gram)).clone()
        damping[-1] = 0  # the bias is free
        candidates[strength] = torch.linalg.solve(gram + damping.diag(), right)
    errors = dict.fromkeys(candidates, 0.0)
    for stream in stream_sets[1].streams:
        patches, whole = _patches(stream.latents, weight), stream.teacher.double().square().sum()
        missing = (stream.teacher - stream.student).flatten(0, 1)
        for candidate, change in candidates.items():
            errors[candidate] += _share(missing - patches @ change, whole)
    ridge = min(errors, key=lambda candidate: errors[candidate])
    shown = len(stream_sets[1].streams)
    repair.gaps.append(Gap(0, last, errors[None] / shown, errors[ridge] / shown, ridge))
    if ridge is None:
        return
    found = candidates[ridge].T.to(weight.dtype)
    for name, old, change in (("weight", weight, found[:, :-1]), ("bias", bias, found[:, -1])):
        stored = stream_sets[0].states.as_stored(f"{EMBEDDING}.{name}", old + change.reshape(old.shape))
        repair.changes[f"{EMBEDDING}.{name}"] = stored - old
    for stream_set in stream_sets:
        parts = stream_set.states.changed(repair.changes).parts()
        starts = (start for part in parts for moment in part.moments for start in part.starts(moment))
        for stream, start in zip(stream_set.streams, starts, strict=True):
            stream.student = start.state


def _patches(latents: Tensor, weight: Tensor) -> Tensor:
    """What the embedding is given, (tokens, channels x patch x patch), and a one for its bias."""
    patch = weight.shape[-1]
    patches = F.unfold(latents.to(weight.dtype), patch, stride=patch).transpose(1, 2).flatten(0, 1).double()
    return torch.cat((patches, torch.ones_like(patches[:, :1])), dim=1)
