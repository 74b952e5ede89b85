"""`sanac judge samples`: judged samples of a model, for `sanac reinforce`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.core.progress import Reporter
from sanac.core.view import Block
from sanac.judge.requests import check_requests, judge_identity, requests_of
from sanac.judge.verifier import Request
from sanac.nn.calibration.prompts import choose_prompts, is_shapes_vocabulary
from sanac.nn.device import pick_device
from sanac.nn.pipeline_config import vocabulary_of
from sanac.reinforce.cost import PROMPTS
from sanac.reinforce.gather import begin, gather, read_samples
from sanac.reinforce.groups import Samples, group_file
from sanac.reinforce.settings import JudgeSamplesSettings, SamplingSettings
from sanac.search.generators import any_batch, any_sampling, any_stepwise, check_generates, open_any_generator
from sanac.search.verifiers import open_verifier


def run(word: str, settings: JudgeSamplesSettings, context: Context) -> Outcome:
    """Sample and score the prompts of this process's part."""
    opened = context.open_any(word)
    check_generates(opened)
    requests = requests_for(settings, opened)
    folder = ConfinedPath(settings.out)
    begin(folder, about(settings, opened, requests, context.reporter), fresh=settings.fresh)
    first, parts = settings.share
    numbers = range(first, len(requests), parts)
    sample(opened, settings, requests, numbers, folder, context.reporter)
    missing = sum(not group_file(folder, number).is_file() for number in range(len(requests)))
    data: dict[str, Any] = {"prompts": len(requests), "each": settings.each, "missing": missing}
    if missing:
        return Outcome("ok", data, settings.out, show=lambda: [f"{missing} of {len(requests)} prompts are left"])
    found = read_samples(folder)
    data |= summary(found)
    return Outcome("ok", data, settings.out, found, partial(_show, data, settings.out))


def requests_for(settings: SamplingSettings, model: AnyModel) -> list[Request]:
    """The prompts, which the verifier can judge."""
    vocabulary = vocabulary_of(model)
    usual = PROMPTS if settings.prompts is None and is_shapes_vocabulary(vocabulary) else None
    prompts, _ = choose_prompts(settings.prompts, settings.num_prompts or usual, vocabulary)
    requests = requests_of(prompts)
    if settings.verifier:
        check_requests([settings.verifier], requests)
    return requests


def about(
    settings: SamplingSettings, model: AnyModel, requests: list[Request], reporter: Reporter, weights: str = ""
) -> dict[str, Any]:
    """What samples follow from; `weights` identifies those that replace the model's own."""
    return {
        "model": model.identity(),
        "weights": weights,
        "sampling": any_sampling(model, settings, reporter).to_json(),
        "verifier": judge_identity(settings.verifier),
        "prompts": len(requests),
        "texts": [request.prompt for request in requests],
        "each": settings.each,
        "seed": settings.seed,
    }


def sample(
    model: AnyModel,
    settings: SamplingSettings,
    requests: list[Request],
    numbers: range,
    folder: ConfinedPath,
    reporter: Reporter,
    weights: Any = None,
) -> None:
    """Gather the samples of some prompts, with other weights of the transformer where they are passed."""
    if all(group_file(folder, number).is_file() for number in numbers):
        return
    device = pick_device(settings.device)
    generator = open_any_generator(model, device, "torch", reporter)
    if weights:
        generator.load_weights(weights)
    batch = settings.batch or any_batch(model, device)
    stepwise = any_stepwise(generator, any_sampling(model, settings, reporter, batch=batch))
    assert settings.verifier
    verifier = open_verifier([settings.verifier], device, folder)
    gather(stepwise, verifier, requests, numbers, settings.each, settings.seed, folder, reporter)


def summary(found: Samples) -> dict[str, Any]:
    """Mean scores, and prompts from which nothing can be learned."""
    count = len(found.groups)
    means = [sum(one.scores) / len(one.scores) for one in found.groups]
    best = [max(one.scores) for one in found.groups]
    varied = len(found.varied)
    return {"varied": varied, "alike": count - varied, "mean": sum(means) / count, "best": sum(best) / count}


def _show(data: dict[str, Any], out: Any) -> Iterator[Block]:
    yield f"{data['prompts']} prompts, {data['each']} images of each: {out}"
    yield f"mean score {data['mean']:.3f}, of each prompt's best {data['best']:.3f}"
    yield f"{data['alike']} prompts whose images all score alike teach nothing"
