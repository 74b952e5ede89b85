"""Who teaches: the model that a pruned one was cut from, found through what its artifact says of its origin."""

from pathlib import Path

from sanac.core.artifact.manifest import Ancestor, compose
from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.staging import origin_of
from sanac.core.checkpoint.locate import locate
from sanac.core.errors import InvalidInput, SanacError, UsageError

_SHRINKING = "prune"


def parent_of(model: Model) -> Model | None:
    """The model as it was before anything was dropped from it; None if nothing was."""
    found = model
    while found.manifest is not None and any(step.stage == _SHRINKING for step in found.manifest.lineage):
        before = _origin(found)
        lineage = found.manifest.lineage
        if not _is(before, lineage[-2]):
            raise UsageError(
                f"{before.located.name} is not what {found.located.name} was made from",
                why="it was changed since, or another model stands in its place",
                hint="name the teacher: --teacher MODEL",
            )
        found = before
    return None if found is model else found


def _origin(model: Model) -> Model:
    """What an artifact was made from, where it lay then."""
    word = origin_of(model.located.path)
    try:
        if not word:
            raise UsageError(f"{model.located.path} doesn't say where it lay")
        if not Path(word).exists():
            raise UsageError(f"{word} is not there any more")
        return open_model(locate(word))
    except SanacError as error:
        raise UsageError(
            f"the model that {model.located.name} was made from can't be opened",
            why=error.message,
            hint="name the teacher: --teacher MODEL; or --loss flow, which needs none",
        ) from error


def _is(model: Model, step: Ancestor) -> bool:
    """Whether a step of a lineage is this very model; a foreign one may have been named by all of its bytes."""
    if model.manifest:
        return model.manifest.key == step.key
    return step.key == model.identity() or step.key == model.identity(full_hash=True)


def blocks_of(teacher: Model, student: Model) -> tuple[int | None, ...] | None:
    """For each of the student's blocks its number in the teacher; None where one was not made from the other."""
    lineage = student.manifest.lineage if student.manifest else ()
    for place, step in enumerate(lineage[:-1]):
        if _is(teacher, step):
            plan = compose(lineage[place + 1 :])
            return plan.sources if plan else tuple(range(student.architecture.blocks))
    return None


def check_teacher(teacher: Model, student: Model) -> None:
    """A teacher has to speak the student's language: the same latents, captions and streams."""
    one, other = teacher.architecture, student.architecture
    problems = [
        f"{what}: the teacher's {getattr(one, name)}, the student's {getattr(other, name)}"
        for name, what in (
            ("in_channels", "channels of the latents"),
            ("caption_channels", "width of the captions"),
            ("patch_size", "patches"),
            ("width", "width of the stream"),
        )
        if getattr(one, name) != getattr(other, name)
    ]
    if problems:
        raise InvalidInput(
            f"{teacher.located.name} can't teach {student.located.name}",
            why=problems[0],
            problems=problems,
            hint="--teacher with the model that it was pruned from",
        )
