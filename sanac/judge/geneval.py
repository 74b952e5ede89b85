"""GenEval's rules: whether an image's detections satisfy its prompt. Independent of the detector."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sanac.core.errors import UsageError
from sanac.judge.detections import Box, Detection
from sanac.judge.metadata import MOST_PER_CLASS, Clause, GenEvalTask

Found = tuple[Detection, ...]
ScoredBox = tuple[float, float, float, float, float]  # left, top, right, bottom, score

_TOGETHER = 1e-3  # pixels: centres nearer than this, beyond the margin, have no spatial relation


@dataclass(frozen=True, slots=True)
class Rules:
    """Thresholds for detections and spatial relations. The defaults are GenEval's; other detectors need others."""

    least_score: float = 0.3
    least_score_counting: float = 0.9
    most_per_class: int = MOST_PER_CLASS
    margin: float = 0.1
    direction: float = 0.5

    def __post_init__(self) -> None:
        """Reject thresholds outside 0..1 and a limit below 1."""
        shares = {"least_score": self.least_score, "least_score_counting": self.least_score_counting}
        shares |= {"direction": self.direction, "margin": self.margin}
        problems = [f"{name} is {share}, not within 0 and 1" for name, share in shares.items() if not 0 <= share <= 1]
        if self.most_per_class < 1:
            problems.append(f"most_per_class is {self.most_per_class}, less than 1")
        if problems:
            raise UsageError("the judging rules are invalid", why=problems[0], problems=problems)

    def threshold(self, tag: str) -> float:
        """The score that a detection must exceed in a task with this tag."""
        return self.least_score_counting if tag == "counting" else self.least_score


GENEVAL = Rules()


@dataclass(frozen=True, slots=True)
class GenEvalResult:
    """The verdict on an image: correct or why not, a soft score in 0..1, and the detections considered."""

    correct: bool
    reasons: tuple[str, ...]
    soft: float
    kept: Mapping[str, Found]

    @property
    def details(self) -> dict[str, tuple[ScoredBox, ...]]:
        """Class -> boxes with scores, best first, as in GenEval's results."""
        return {label: tuple((*found.box, found.score) for found in kept) for label, kept in self.kept.items()}


def judge(task: GenEvalTask, detections: Iterable[Detection], rules: Rules = GENEVAL) -> GenEvalResult:
    """Judge `detections` against `task`: all clauses of `include` and none of `exclude` must hold; all are checked."""
    kept = select_detections(detections, rules.threshold(task.tag), rules.most_per_class)
    checked: list[_Checked] = []
    for clause in task.include:
        checked.append(_check(clause, kept.get(clause.label, ()), checked, rules))
    reasons = [clause.reason for clause in checked if clause.reason]
    parts = [part for clause in checked for part in clause.parts]
    named = {clause.label for clause in task.include}
    for clause in task.exclude:
        seen = len(kept.get(clause.label, ()))
        if seen >= clause.count:
            reasons.append(f"{clause.label}: fewer than {clause.count} wanted, {seen} found")
        if clause.label not in named:  # classes of include are already scored by count
            parts.append(float(seen < clause.count))
    return GenEvalResult(not reasons, tuple(reasons), sum(parts) / len(parts), kept)


def select_detections(detections: Iterable[Detection], threshold: float, most: int) -> dict[str, Found]:
    """Class -> detections above `threshold`, best first, at most `most`; overlapping ones are kept."""
    kept: dict[str, list[Detection]] = {}
    for found in sorted(detections, key=_best_first):
        if found.score > threshold:
            kept.setdefault(found.label, []).append(found)
    return {label: tuple(found[:most]) for label, found in kept.items()}


def _best_first(found: Detection) -> tuple[float, str, Box, str]:
    """Sort key by score, with ties broken by the other fields, so that input order doesn't matter."""
    return (-found.score, found.label, found.box, found.color or "")


def relations(one: Box, other: Box, rules: Rules = GENEVAL) -> frozenset[str]:
    """The relations of `one` to `other`: none, one or two of left of, right of, above, below.

    On each axis, `margin` times the sum of both sizes is subtracted from the centres' offset; the remainder, divided by
    the offset's length, must exceed `direction`.
    """
    across, down = _centre(one, 0) - _centre(other, 0), _centre(one, 1) - _centre(other, 1)
    x, y = (
        math.copysign(max(abs(offset) - rules.margin * (_size(one, axis) + _size(other, axis)), 0), offset)
        for axis, offset in enumerate((across, down))
    )
    if max(abs(x), abs(y)) < _TOGETHER:
        return frozenset()
    length = math.hypot(across, down)
    shares = {"left of": -x / length, "right of": x / length, "above": -y / length, "below": y / length}
    return frozenset(relation for relation, share in shares.items() if share > rules.direction)


def _centre(box: Box, axis: int) -> float:
    return (box[axis] + box[axis + 2]) / 2


def _size(box: Box, axis: int) -> float:
    return box[axis + 2] - box[axis]


@dataclass(frozen=True, slots=True)
class _Checked:
    matched: Found | None  # the objects that satisfy the clause: targets of later clauses' relations
    reason: str
    parts: tuple[float, ...]  # soft scores: count, then colour and position if the clause has them

    @property
    def exact(self) -> bool:
        return all(part == 1 for part in self.parts)


def _check(clause: Clause, seen: Found, before: Sequence[_Checked], rules: Rules) -> _Checked:
    found = seen[: clause.count]
    reason = (
        _count_reason(clause, found) or _color_reason(clause, found) or _position_reason(clause, found, before, rules)
    )
    parts = [max(0.0, 1 - abs(clause.count - len(seen)) / clause.count)]
    exact = len(seen) == clause.count
    if clause.color is not None:
        parts.append(_hits(clause, found) / clause.count if exact else 0.0)
    if clause.position is not None:
        parts.append(float(exact and not reason and before[clause.position[1]].exact))
    return _Checked(None if reason else found, reason, tuple(parts))


def _count_reason(clause: Clause, found: Found) -> str:
    return "" if len(found) >= clause.count else f"{clause.label}: {clause.count} wanted, {len(found)} found"


def _hits(clause: Clause, found: Found) -> int:
    return sum(detection.color == clause.color for detection in found)


def _color_reason(clause: Clause, found: Found) -> str:
    if clause.color is None or _hits(clause, found) >= clause.count:
        return ""
    colors = ", ".join(detection.color or "no colour" for detection in found)
    return f"{clause.label}: {clause.count} {clause.color} wanted, {colors} found"


def _position_reason(clause: Clause, found: Found, before: Sequence[_Checked], rules: Rules) -> str:
    if clause.position is None:
        return ""
    relation, index = clause.position
    targets = before[index].matched
    if targets is None:
        return f"{clause.label}: nothing found for it to be {relation}"
    for one in found:
        for target in targets:
            standing = relations(one.box, target.box, rules)
            if relation not in standing:
                stands = " and ".join(sorted(standing)) or "no relation"
                return f"{clause.label}: {relation} {target.label} wanted, {stands} found"
    return ""
