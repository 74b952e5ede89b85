"""The search strategies by name: what each does with the noises of a prompt, and where it looks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sanac.nn.stepwise import Noise
from sanac.search.best_of import best_of
from sanac.search.gated import Gates, gated
from sanac.search.greedy import greedy
from sanac.search.halving import halving
from sanac.search.paths import paths
from sanac.search.pool import Bench, Found
from sanac.search.reflection import reflection
from sanac.search.two_stage import two_stage
from sanac.search.zero_order import zero_order

CUTS, LOOKS, LEVELS = (0.4, 0.65), (0.4, 0.5, 0.6, 0.7, 0.8), (0.5, 0.75)  # shares of all steps


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """A search of a prompt with all settings resolved."""

    strategy: str
    n: int  # noises
    batch: int
    looks: tuple[int, ...] = ()  # steps after which previews are compared
    keep: float = 0.5
    clarity: float = 0.5
    potential: float = 0.5
    until: float | None = None
    neighbours: int = 4
    cosine: float = 0.95
    back: float = 0.5  # share of all steps that a new start goes back

    def run(self, bench: Bench, noises: Sequence[Noise]) -> Found:
        """Search with this plan."""
        return STRATEGIES[self.strategy](bench, noises, self)


Strategy = Callable[[Bench, Sequence[Noise], SearchPlan], Found]

STRATEGIES: Mapping[str, Strategy] = {
    "best-of": lambda bench, noises, plan: best_of(bench, noises, plan.batch, plan.until),
    "halving": lambda bench, noises, plan: halving(bench, noises, [(step, plan.keep) for step in plan.looks]),
    "gated": lambda bench, noises, plan: gated(
        bench, noises, Gates(plan.looks, plan.clarity, plan.potential), plan.batch
    ),
    "two-stage": lambda bench, noises, plan: two_stage(bench, noises, 1, plan.batch),
    "reflection": lambda bench, noises, plan: reflection(
        bench, noises, -(-plan.n // 2), plan.until or 0.5, plan.back, plan.batch
    ),
    "zero-order": lambda bench, noises, plan: zero_order(bench, noises, plan.neighbours, plan.cosine),
    "paths": lambda bench, noises, plan: paths(
        bench,
        noises,
        max(1, min(plan.n // 4, plan.n // (1 + len(plan.looks)))),
        plan.looks,
        max(1, round(plan.back * len(bench.costs) / 2)),
    ),
    "prm": lambda bench, noises, plan: greedy(bench, noises, 1 + (plan.n - 1) // max(1, len(plan.looks)), plan.looks),
}


def least_noises(strategy: str, looks: int) -> int:
    """The least number of noises with which a strategy does more than finish them."""
    return {"prm": 1 + looks, "paths": 1 + looks}.get(strategy, 1)


_DEFAULT_LOOKS: Mapping[str, tuple[float, ...]] = {"halving": CUTS, "gated": LOOKS, "prm": LOOKS, "paths": LEVELS}


def default_looks(strategy: str, steps: int) -> tuple[int, ...]:
    """Steps after which a strategy looks at previews; () for those that only see finished images."""
    shares = _DEFAULT_LOOKS.get(strategy, ())
    return tuple(dict.fromkeys(max(1, min(steps - 1, round(share * steps))) for share in shares if steps > 1))
