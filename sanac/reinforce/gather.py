"""Gathers judged samples: several images of each prompt, scored, with what training needs to know of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sanac.core import json_files
from sanac.core.atomic import write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import Reporter
from sanac.judge.verifier import Request, Verifier
from sanac.nn.stepwise import Noise
from sanac.reinforce.groups import ABOUT, FOLDER, SCHEMA, Group, Samples, group_file, load_group, save_group
from sanac.search.generators import Stepwise

_MOST = 1_000_000  # prompts of a folder: more is a broken file


def begin(folder: ConfinedPath, about: Mapping[str, Any], *, fresh: bool = False) -> None:
    """Make the folder of some samples; UsageError if it holds samples of something else."""
    if fresh:
        folder.rmtree(ignore_errors=True)
    value = {"schema": SCHEMA, **about}
    if (folder / ABOUT).is_file():
        known = json_files.read_object(folder / ABOUT)
        changed = sorted(name for name in {*known, *value} if known.get(name) != value.get(name))
        if changed:
            raise UsageError(
                f"{folder} holds other samples",
                why=f"they differ in {', '.join(changed)}",
                hint="another --out, or --fresh to discard them",
            )
        return
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    write_atomically(folder / ABOUT, json_files.pretty(value))


def gather(
    stepwise: Stepwise,
    verifier: Verifier,
    requests: Sequence[Request],
    numbers: Sequence[int],
    each: int,
    seed: int,
    folder: ConfinedPath,
    reporter: Reporter,
) -> None:
    """Sample and score the prompts of these numbers, `each` times; what is there already stays."""
    missing = [number for number in numbers if not group_file(folder, number).is_file()]
    reporter.begin("sampling", len(missing) * each, "images")
    try:
        for number in missing:
            seeds = tuple(range(seed + number * each, seed + (number + 1) * each))
            save_group(_group(stepwise, verifier, requests[number], seeds), folder, number)
            reporter.advance(each)
    finally:
        reporter.end()


def _group(stepwise: Stepwise, verifier: Verifier, request: Request, seeds: tuple[int, ...]) -> Group:
    samples, scores, condition = [], [], {}
    for start in range(0, len(seeds), stepwise.sampling.batch):
        some = seeds[start : start + stepwise.sampling.batch]
        images = stepwise.start([request.prompt] * len(some), list(map(Noise, some)))
        pictures = list(images.finish())
        scores += verifier.scores(pictures, [request] * len(some))
        samples += [guess.cpu() for guess in images.guesses]
        condition = {name: value[0].cpu() for name, value in images.condition.items()}
    if not all(map(math.isfinite, scores)):
        raise InvalidInput(f"the verifier {verifier.id} scores NaN", hint="fetch it again, or use another one")
    stacked = torch.stack(samples)
    small = stacked.half() if stacked.is_floating_point() else stacked.int()
    return Group(request.prompt, seeds, tuple(scores), small, condition)


def read_samples(folder: ConfinedPath, prompts: int | None = None) -> Samples:
    """The samples of a folder; InvalidInput unless all prompts are there."""
    if not (folder / ABOUT).is_file():
        raise InvalidInput(f"{folder} holds no judged samples", hint="sanac judge samples MODEL --out DIR")
    about = json_files.read_object(folder / ABOUT)
    count = about.get("prompts") if prompts is None else prompts
    if about.get("schema") != SCHEMA or type(count) is not int or not 0 < count <= _MOST:
        raise InvalidInput(f"{folder / ABOUT} is not of this version's samples")
    missing = [number for number in range(count) if not group_file(folder, number).is_file()]
    if missing:
        raise InvalidInput(
            f"{folder} is not finished",
            why=f"{len(missing)} of {count} prompts have no samples yet",
            hint="run sanac judge samples with the same options again",
        )
    return Samples(about, tuple(load_group(folder, number) for number in range(count)))
