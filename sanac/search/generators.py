"""Opens what generates images, SANA or a token generator: the one place that knows both kinds."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

from sanac.core.artifact.completeness import check_complete
from sanac.core.artifact.model import Model
from sanac.core.artifact.token_model import AnyModel
from sanac.core.errors import UsageError
from sanac.core.progress import Reporter
from sanac.nn.generation import GenerationSettings
from sanac.nn.generation_memory import MOST, batch_that_fits
from sanac.runtime.pipeline import DiffusionGenerator, open_generator, sampling_of
from sanac.runtime.stepwise import StepwiseSana
from sanac.tokens.generation_memory import tokens_that_fit
from sanac.tokens.generator import TokenGenerator, open_token_generator
from sanac.tokens.sampling import SCALE, STEPS, TokenSampling, token_sampling
from sanac.tokens.stepwise import StepwiseTokens

Generator = DiffusionGenerator | TokenGenerator
Stepwise = StepwiseSana | StepwiseTokens
_TOKENS_ONLY = ("order", "temperature")


class SamplingOptions(Protocol):
    """The options of sampling, as verbs have them."""

    @property
    def typed(self) -> AbstractSet[str]:
        """Names of the options that were typed."""

    @property
    def steps(self) -> int | None:
        """Sampler steps."""

    @property
    def guidance(self) -> float:
        """Guidance scale."""

    @property
    def backend(self) -> str:
        """What computes."""

    @property
    def order(self) -> str:
        """The order in which image tokens become known."""

    @property
    def temperature(self) -> float:
        """Noise in that order."""


def check_generates(model: AnyModel) -> None:
    """An error if a model lacks components that generating images needs."""
    if isinstance(model, Model):
        check_complete(model)
    else:
        model.check()


def any_sampling(model: AnyModel, options: SamplingOptions, reporter: Reporter, **how: Any) -> GenerationSettings:
    """Sampler settings for a model; UsageError for options of the other kind."""
    guided = "guidance" in options.typed
    if isinstance(model, Model):
        for option in _TOKENS_ONLY:
            if option in options.typed:
                raise UsageError(f"--{option} requires a token generator", why=f"{model.located.name} is a SANA model")
        return sampling_of(model, options.steps, options.guidance, reporter, guidance_typed=guided, **how)
    if options.backend != "torch":
        raise UsageError(
            f"--backend {options.backend} can't be used with {model.located.name}",
            why="token generators are not exported",
            hint="--backend torch",
        )
    scale = options.guidance if guided else SCALE
    return TokenSampling(options.steps or STEPS, scale, order=options.order, temperature=options.temperature, **how)


def any_batch(
    model: AnyModel, device: str, size: tuple[int, int] | None = None, tile: int | None = None, most: int = MOST
) -> int:
    """Images per batch, from 1 to `most`: as many as fit beside the weights."""
    if isinstance(model, Model):
        return batch_that_fits(model, device, size, tile, most)
    return tokens_that_fit(model, device, most)


def open_any_generator(model: AnyModel, device: str | None, backend: str, reporter: Reporter) -> Generator:
    """Open a model on a device."""
    if isinstance(model, Model):
        return open_generator(model, device, backend, reporter)
    return open_token_generator(model, device)


def any_stepwise(generator: Generator, sampling: GenerationSettings, taps: Sequence[int] = ()) -> Stepwise:
    """A generator that takes its steps one by one; `taps` are blocks whose output is kept, of SANA only."""
    if isinstance(generator, DiffusionGenerator):
        return StepwiseSana(generator, sampling, tuple(taps))
    return StepwiseTokens(generator.networks, token_sampling(sampling))
