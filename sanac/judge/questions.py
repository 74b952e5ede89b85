"""Yes/no questions about an image: one about the whole prompt, or one for each thing that the prompt asks for (atoms).

Atoms follow Soft-TIFA: every count, colour and relation is a question of its own, and the score of an image is the
geometric mean of the probabilities, so that one missing thing can't be made up for by others. They come from GenEval's
metadata, so no language model has to split the prompt.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from sanac.judge.metadata import Clause, GenEvalTask
from sanac.judge.verifier import Request

FINAL = 'Does this image show exactly what the text "{prompt}" describes? Answer yes or no.'
CLARITY = (
    'This is a rough preview of an image that will show "{prompt}". Is it clear enough to tell what the finished '
    "image will show? Answer yes or no."
)
POTENTIAL = (
    'This is a preview of an unfinished image. Judging by what can be seen, will the finished image show "{prompt}"? '
    "Answer yes or no."
)
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_FLOOR = 1e-6  # a probability of zero would hide what the other atoms say


@dataclass(frozen=True, slots=True)
class Atom:
    """One thing that a prompt asks for, and the question about it."""

    question: str
    wanted: str  # the thing itself, as it can be added to a prompt


def final_question(request: Request, template: str = FINAL) -> str:
    """The question about a whole prompt."""
    return template.format(prompt=request.prompt)


def atoms_of(task: GenEvalTask) -> tuple[Atom, ...]:
    """The atoms of a task: for every clause its objects, their colour and their place; then what must not be there."""
    found = [atom for clause in task.include for atom in _clause_atoms(clause, task.include)]
    for clause in task.exclude:
        named = _counted(clause.count, clause.label)
        found.append(
            Atom(
                f"Are there fewer than {named} in this image? Answer yes or no.",
                f"exactly {_counted(clause.count - 1, clause.label)}",
            )
        )
    return tuple(dict.fromkeys(found))


def _clause_atoms(clause: Clause, clauses: Sequence[Clause]) -> Iterator[Atom]:
    named = _counted(clause.count, clause.label)
    verb = "Is" if clause.count == 1 else "Are"
    yield Atom(f"{verb} there {named} in this image? Answer yes or no.", named)
    if clause.color:
        subject = _plural(clause.label) if clause.count > 1 else clause.label
        yield Atom(
            f"{verb} the {subject} {clause.color}? Answer yes or no.",
            _counted(clause.count, clause.label, clause.color),
        )
    if clause.position:
        relation, target = clause.position
        words = {"above": "above", "below": "below"}.get(relation, f"to the {relation}")
        other = clauses[target].label
        yield Atom(
            f"Is the {clause.label} {words} the {other}? Answer yes or no.",
            f"{_counted(1, clause.label)} {relation} {_counted(1, other)}",
        )


def parts_of(task: GenEvalTask) -> tuple[tuple[str, GenEvalTask], ...]:
    """(words, task) of everything that a task asks for, each as a task of its own."""
    found = []
    for clause in task.include:
        words = _counted(clause.count, clause.label, clause.color)
        found.append((words, GenEvalTask(task.tag, words, (replace(clause, position=None),))))
        if clause.position:
            relation, target = clause.position
            other = replace(task.include[target], position=None)
            words = f"{_counted(1, clause.label)} {relation} {_counted(1, other.label)}"
            moved = replace(clause, position=(relation, 0))
            found.append((words, GenEvalTask(task.tag, words, (other, moved))))
    for clause in task.exclude:
        words = f"exactly {_counted(clause.count - 1, clause.label)}"
        wanted = Clause(clause.label, max(1, clause.count - 1))
        found.append((words, GenEvalTask(task.tag, words, (wanted,), (clause,))))
    return tuple(found)


def geometric_mean(probabilities: Sequence[float]) -> float:
    """The geometric mean, with a floor for zeros."""
    return math.exp(sum(math.log(max(_FLOOR, one)) for one in probabilities) / len(probabilities))


def _counted(count: int, label: str, color: str | None = None) -> str:
    named = " ".join(filter(None, (color, label if count == 1 else _plural(label))))
    if count == 1:
        return f"{'an' if named[0] in 'aeiou' else 'a'} {named}"
    return f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {named}"


def _plural(label: str) -> str:
    if label.endswith(("s", "x", "ch", "sh")):
        return f"{label}es"
    return f"{label}s"
