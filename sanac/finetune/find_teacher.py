"""Finds the default teacher: the unpruned ancestor of a model, by the lineage in its manifest."""

from pathlib import Path

from sanac.core.artifact.manifest import Ancestor, compose
from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.staging import origin_of
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, SanacError, UsageError

_SHRINKING = "prune"


def parent_of(model: Model) -> Model | None:
    """The ancestor of a model before its first pruning; None if it was never pruned."""
    found = model
    while found.manifest is not None and any(step.stage == _SHRINKING for step in found.manifest.lineage):
        before = _origin(found)
        lineage = found.manifest.lineage
        if not _is(before, lineage[-2]):
            raise UsageError(
                f"{before.located.name} is not the model that {found.located.name} was made from",
                why="it was changed since, or replaced by another model",
                hint="pass the teacher with --teacher MODEL",
            )
        found = before
    return None if found is model else found


def _origin(model: Model) -> Model:
    """The model that an artifact was made from, opened at the recorded path."""
    word = origin_of(model.located.path)
    try:
        if not word:
            raise UsageError(f"{model.located.path} doesn't record its path")
        if not Path(word).exists():
            raise UsageError(f"{word} no longer exists")
        return open_model(locate(word))
    except SanacError as error:
        raise UsageError(
            f"the model that {model.located.name} was made from can't be opened",
            why=error.message,
            hint="pass the teacher with --teacher MODEL, or use --loss flow, which needs none",
        ) from error


def _is(model: Model, step: Ancestor) -> bool:
    """Whether a lineage step is this model; models without manifest also match by their full hash."""
    if model.manifest:
        return model.manifest.key == step.key
    return step.key == model.identity() or step.key == model.identity(full_hash=True)


def blocks_of(teacher: Model, student: Model) -> tuple[int | None, ...] | None:
    """Teacher block index of each student block; None if the student was not made from the teacher."""
    lineage = student.manifest.lineage if student.manifest else ()
    for place, step in enumerate(lineage[:-1]):
        if _is(teacher, step):
            plan = compose(lineage[place + 1 :])
            return plan.sources if plan else tuple(range(student.architecture.blocks))
    return None


def check_teacher(teacher: Model, student: Model) -> None:
    """Raise InvalidInput unless teacher and student agree in latents, captions, patch size and width."""
    one, other = teacher.architecture, student.architecture
    problems = [
        f"{what}: the teacher's {getattr(one, name)}, the student's {getattr(other, name)}"
        for name, what in (
            ("in_channels", "latent channels"),
            ("caption_channels", "caption embedding width"),
            ("patch_size", "patch size"),
            ("width", "hidden width"),
            ("guidance", "guidance as an input"),
        )
        if getattr(one, name) != getattr(other, name)
    ]
    if problems:
        raise InvalidInput(
            f"{teacher.located.name} can't be the teacher of {student.located.name}",
            why=problems[0],
            problems=problems,
            hint="pass the model that it was pruned from with --teacher",
        )
