"""A generator whose every image is the winner of a search: what suites evaluate with `--search`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sanac.core.artifact.token_model import AnyModel
from sanac.core.confined import ConfinedPath
from sanac.core.progress import NULL_REPORTER, Reporter
from sanac.judge.requests import check_requests, judge_identity
from sanac.judge.verifier import Request
from sanac.nn.generation import GenerationSettings
from sanac.nn.stepwise import Pictures
from sanac.search.generators import Generator
from sanac.search.open_search import calibrate, open_search, plan_search
from sanac.search.searcher import Searcher
from sanac.search.settings import USES, SearchSettings

if TYPE_CHECKING:
    import torch

_APART = 10**9  # seeds of the further noises of an image: none that the suite begins an image with


@dataclass
class SearchingGenerator:
    """An image generator around a search; the first noise of every image is the one that it would have without."""

    inner: Generator
    searcher: Searcher
    requests: Mapping[str, Request]  # by prompt

    @property
    def name(self) -> str:
        """The model's name."""
        return self.inner.name

    @property
    def device(self) -> str:
        """The device that the model runs on."""
        return self.inner.device

    def generate(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        _sampling: GenerationSettings,
        reporter: Reporter = NULL_REPORTER,
    ) -> Iterator[Pictures]:
        """Yield the winner of each prompt's search; the sampler settings are those that the search was opened with."""
        n = self.searcher.plan.n
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            noises = [seed, *((_APART + n * seed + place) % 2**63 for place in range(1, n))]
            found, _ = self.searcher.search(self.requests[prompt], noises, len(prompts) - number)
            picture = found.winner.picture
            assert picture is not None
            yield picture[None]
            reporter.advance(1)

    def load_weights(self, weights: "Mapping[str, torch.Tensor]") -> None:
        """Replace some weights of the model."""
        self.inner.load_weights(weights)

    def device_warnings(self) -> list[str]:
        """Warnings about the model on its device."""
        return self.inner.device_warnings()

    def unknown_words(self, prompts: Sequence[str]) -> list[str]:
        """Words of the prompts that the tokenizer maps to the unknown token."""
        return self.inner.unknown_words(prompts)

    def to_json(self) -> dict[str, Any]:
        """What searched, and what it spent."""
        plan, judge = self.searcher.plan, self.searcher.judge
        about: dict[str, Any] = {"strategy": plan.strategy, "n": plan.n, "verifier": judge.verifier.id}
        about |= {"reader": judge.reader.id} if judge.reader else {}
        return about | {"looks": list(plan.looks), "spent": self.searcher.budget.to_json()}


def searching(
    model: AnyModel,
    generator: Generator,
    settings: SearchSettings,
    words: Sequence[str],
    n: int,
    sampling: GenerationSettings,
    requests: Sequence[Request],
    images: int,
    kept: ConfinedPath,
    reporter: Reporter,
) -> SearchingGenerator:
    """A generator that searches for so many images of these requests.

    UsageError if the verifiers can't judge them, or the budget doesn't pay for an image each.
    """
    check_requests([*words, *settings.readers], requests)
    searcher = open_search(model, generator, settings, words, plan_search(settings, n, sampling), sampling, kept)
    searcher.check(images)
    calibrate(searcher, model, settings, words, requests, reporter)
    return SearchingGenerator(generator, searcher, {request.prompt: request for request in requests})


def search_about(settings: SearchSettings, n: int) -> dict[str, Any]:
    """What searched images depend on besides model and sampler, for their metadata and keys; empty without a search."""
    if settings.search == "single":
        return {}
    judges = [judge_identity(word) for word in (*settings.verifiers, *settings.readers)]
    typed = {name: getattr(settings, name) for name in (*USES, "max_forwards") if name in settings.typed}
    return {"search": {"strategy": settings.search, "n": n, "judges": judges, **typed}}
