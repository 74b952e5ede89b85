"""Opens everything that a search needs: the stepwise generator, its draft, the verifier, what reads previews."""

from collections.abc import Sequence
from dataclasses import replace

from sanac.core.artifact.model import Model
from sanac.core.artifact.token_model import AnyModel, open_any_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.errors import InvalidInput, UsageError
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.judge.judge_files import STATE_JUDGE, STATES, judge_files
from sanac.judge.requests import requests_of
from sanac.judge.state_judge import StateJudgeShape, StateReader, block_in
from sanac.judge.verifier import Request, Verifier
from sanac.judge.words import accepted_from
from sanac.nn.calibration.prompts import default_prompts
from sanac.nn.generation import GenerationSettings
from sanac.nn.pipeline_config import vocabulary_of
from sanac.runtime.pipeline import DiffusionGenerator
from sanac.search.budget import Budget
from sanac.search.clarity import PROMPTS, known_clarity
from sanac.search.generators import Generator, Stepwise, any_stepwise, check_generates, open_any_generator
from sanac.search.judging import SearchJudge
from sanac.search.searcher import Searcher
from sanac.search.settings import LOOKING, SearchSettings
from sanac.search.strategies import SearchPlan, default_looks, least_noises
from sanac.search.verifiers import open_verifier


def plan_search(settings: SearchSettings, n: int, sampling: GenerationSettings) -> SearchPlan:
    """The plan of a search; UsageError for looks that are no steps of it."""
    looks = settings.look or default_looks(settings.search, sampling.steps)
    if looks and max(looks) >= sampling.steps:
        raise UsageError(
            f"--look {max(looks)} is not before the last of {sampling.steps} steps",
            hint=f"--look {','.join(map(str, default_looks(settings.search, sampling.steps))) or 1}",
        )
    if settings.search in LOOKING and not looks:
        raise UsageError(f"--search {settings.search} needs two steps or more", hint="--search best-of")
    if n < (least := least_noises(settings.search, len(looks))):
        raise UsageError(
            f"--n {n} is too few for --search {settings.search}",
            why=f"with {len(looks)} looks it needs {least} noises",
            hint=f"--n {least}, or fewer steps in --look",
        )
    return SearchPlan(
        settings.search,
        n,
        sampling.batch,
        looks,
        settings.keep,
        settings.clarity,
        settings.potential,
        settings.until,
        settings.neighbours,
        settings.cosine,
        settings.back,
    )


def open_search(
    model: AnyModel,
    generator: Generator,
    settings: SearchSettings,
    words: Sequence[str],
    plan: SearchPlan,
    sampling: GenerationSettings,
    kept: ConfinedPath,
) -> Searcher:
    """A searcher over an opened generator; scores are kept in files of the folder `kept`."""
    device = generator.device
    judge = SearchJudge(open_verifier(words, device, kept))
    plan = _with_verdict(plan, words, typed=bool({"until", "potential"} & settings.typed))
    taps: tuple[int, ...] = ()
    if settings.previews:
        judge.reader, judge.block = _reader(model, settings.previews, device, kept)
        taps = (judge.block,) if isinstance(judge.reader, StateReader) else ()
    if (
        taps
        and isinstance(generator, DiffusionGenerator)
        and not hasattr(generator.pipeline.transformer, "transformer_blocks")
    ):
        raise UsageError(
            "--previews states: needs the weights", why="a graph or an engine hides its blocks", hint="--backend torch"
        )
    stepwise = any_stepwise(generator, sampling, taps)
    drafting = _draft(generator, settings, sampling) if plan.strategy == "two-stage" else None
    return Searcher(stepwise, judge, plan, Budget(settings.max_forwards, settings.max_seconds), drafting)


def _with_verdict(plan: SearchPlan, words: Sequence[str], *, typed: bool) -> SearchPlan:
    """The plan with the verifier's own verdict where reflection and gates need one and none was typed."""
    if plan.strategy not in {"reflection", "gated"} or typed:
        return plan
    verdict = accepted_from(words)
    if verdict is None:
        option = "--until" if plan.strategy == "reflection" else "--potential"
        raise UsageError(
            f"--search {plan.strategy} needs {option} with this verifier",
            why="its scores compare images, and don't say from where on one is right",
            hint=f"{option} SCORE, or --verifier judge:MODEL or vlm:MODEL",
        )
    return replace(plan, until=verdict) if plan.strategy == "reflection" else plan


def calibrate(
    searcher: Searcher,
    model: AnyModel,
    settings: SearchSettings,
    words: Sequence[str],
    requests: Sequence[Request],
    reporter: Reporter,
) -> None:
    """Let gates look from where previews are clear on, unless the looks were typed; what it costs is not the budget's.

    It is measured on default prompts, or on those of the search where the verifier has to know what a prompt asks for.
    """
    if settings.search != "gated" or settings.look:
        return
    usual = requests_of(default_prompts(PROMPTS, vocabulary_of(model))[0])
    knowing = any(word.partition(":")[0] in {"shapes", "atoms"} for word in (*words, settings.previews or ""))
    chosen = usual if not knowing or all(one.task for one in usual) else list(requests[:PROMPTS])
    stepwise = searcher.generator
    assert isinstance(stepwise, Stepwise)
    about = [model.identity(), stepwise.sampling.to_json(), stepwise.device]
    clarity = known_clarity(stepwise, searcher.judge, chosen, searcher.plan.batch, about, reporter)
    reporter.detail(f"previews are clear from step {clarity.start} on")
    searcher.plan = replace(searcher.plan, looks=clarity.looks)
    searcher.budget.restart_clock()


def _reader(model: AnyModel, word: str, device: str, kept: ConfinedPath) -> tuple[Verifier | StateReader, int]:
    kind, _, name = word.partition(":")
    if kind != "states":
        return open_verifier([word], device, kept), 0
    if not isinstance(model, Model):
        raise UsageError(
            f"{word} can't be used with {model.located.name}",
            why="it reads the states of a SANA model",
            hint="--previews judge:MODEL",
        )
    files = judge_files(name, STATE_JUDGE, STATES)
    shape = StateJudgeShape.from_json(files.config)
    config = model.transformer.config or model.architecture.config()
    widths = model.architecture.width, config.get("caption_channels")
    if (shape.channels, shape.caption) != widths:
        raise InvalidInput(
            f"{word} doesn't fit {model.located.name}",
            why=f"it reads {shape.channels} channels and captions of {shape.caption}, the model has {widths}",
            hint="train a head on this model",
        )
    block = block_in(model, shape.block)
    schedule = model.schedule
    if schedule and any(block not in schedule.kept(depth) for depth in schedule.depths):
        raise UsageError(
            f"{word} can't be used with this schedule",
            why=f"some of its steps leave out block {block}, behind which the head reads",
            hint="--previews judge:MODEL",
        )
    return StateReader.open(files, device), block


def _draft(generator: Generator, settings: SearchSettings, sampling: GenerationSettings) -> Stepwise:
    """The generator of drafts: another model, or the same one in half of the steps."""
    steps = settings.draft_steps or max(1, sampling.steps // 2)
    if settings.draft:
        other = open_any_model(locate(settings.draft))
        check_generates(other)
        steps = settings.draft_steps or sampling.steps
        drafting = open_any_generator(other, generator.device, "torch", NULL_REPORTER)
        if type(drafting) is not type(generator):
            raise UsageError(
                f"{settings.draft} can't draft for {generator.name}", why="one is a token generator, the other is not"
            )
        generator = drafting
    return any_stepwise(generator, replace(sampling, steps=steps))
