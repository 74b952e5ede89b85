"""Guidance distillation: the student's branch with the prompt learns the velocity that two branches of a teacher give.

    v = v_empty + scale * (v_prompt - v_empty)

The result needs one forward pass per step instead of two. Its schedule says so, and nothing guides it a second time.
"""

from collections.abc import Mapping
from dataclasses import replace

from sanac.core.artifact.model import Model
from sanac.core.artifact.schedule import Schedule, plain
from sanac.core.errors import UsageError
from sanac.finetune.settings import FinetuneSettings
from sanac.nn.guidance import ClassifierFree, config_of, guidance_of, usual_steps
from sanac.nn.pipeline_config import noise_levels

DROPOUT = 0.1  # default share of captions replaced by the empty one


def inside_of(model: Model) -> float | None:
    """The guidance scale in a model's weights; None for plain weights."""
    return model.schedule.guidance_inside if model.schedule else None


def guidance_inside(settings: FinetuneSettings, model: Model) -> float | None:
    """The guidance scale that will be in the trained weights: what is distilled, or what is in them already."""
    return settings.distill_guidance or inside_of(model)


def caption_dropout(settings: FinetuneSettings, model: Model) -> float:
    """Share of captions replaced by the empty one; none where the empty branch is no longer used."""
    if settings.caption_dropout is not None:
        return settings.caption_dropout
    return DROPOUT if guidance_inside(settings, model) is None else 0.0


def guide_of(settings: FinetuneSettings, model: Model, teacher: Model) -> ClassifierFree | None:
    """The guidance that the teacher's two branches have to give; None where one of its branches is imitated."""
    scale = guidance_inside(settings, model)
    if scale is None or inside_of(teacher) is not None:
        return None
    return ClassifierFree(scale, guidance_of(config_of(teacher)).timesteps)


def with_guidance_inside(model: Model, scale: float) -> Schedule:
    """The model's schedule, or plain steps, with every step run by the prompt's branch alone."""
    found = model.schedule or plain(model.architecture.blocks, noise_levels(model, usual_steps(model)))
    return replace(found, guided=(False,) * found.steps, guidance_inside=scale)


def check_distillable(
    settings: FinetuneSettings, model: Model, teacher: Model | None, losses: Mapping[str, float]
) -> None:
    """UsageError where guidance can't be distilled, or what was distilled would be lost."""
    scale = guidance_inside(settings, model)
    if scale is None:
        if teacher is not None and inside_of(teacher) is not None:
            raise UsageError(
                f"{teacher.located.name} would teach guidance that {model.located.name} also applies by two branches",
                why=f"guidance of {inside_of(teacher):g} is in the teacher's weights",
                hint=f"--distill-guidance {inside_of(teacher):g}, or a teacher without guidance inside",
            )
        return
    if model.architecture.guidance:
        raise UsageError(f"{model.located.name} already runs one branch", why="SANA-Sprint takes guidance as an input")
    if set(losses) != {"distill"} or settings.intervals or teacher is None:
        raise UsageError(
            f"guidance of {scale:g} can only be kept in the weights by --loss distill with a teacher",
            why="other losses teach the velocity without guidance",
            hint="--teacher MODEL, and leave --loss and --intervals out",
        )
    known = {name: inside_of(one) for name, one in (("teacher", teacher), ("model", model))}
    for name, inside in known.items():
        if inside not in {None, scale}:
            raise UsageError(
                f"guidance of {scale:g} can't be distilled here",
                why=f"guidance of {inside:g} is in the weights of the {name} already",
                hint=f"--distill-guidance {inside:g}, or start from a model without guidance inside",
            )
