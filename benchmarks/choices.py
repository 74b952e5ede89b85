"""How well the velocity's error tells which blocks to keep: many subsets of one depth, painted and judged.

python benchmarks/choices.py --depth 6 --depth 8     (an hour; docs/results/choices.json, finished subsets are kept)

Subsets hold the first four blocks of sanac:tiny, those from before its growth, without which nothing is painted; of the
others all pairs at six blocks, so many drawn ones at other depths. Tuning prompts: what is learned here may be used.
"""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import machine, workplace

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.write.executor import write_partial
from sanac.core.write.job import WriteOptions
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import SweepBatch
from sanac.nn.generation import GenerationSettings
from sanac.prune.keep_list import plan_keep
from sanac.prune.search_job import SEARCHED
from sanac.runtime.pipeline import open_generator
from sanac.verify.shapes_suite import evaluate

OLD, BLOCKS, DRAWN, IMAGES = 4, 12, 28, 256
RESULT = Path("docs/results/choices.json")


def subsets(depth: int) -> list[tuple[int, ...]]:
    """The choices that are judged."""
    old = tuple(range(OLD))
    found = [(*old, *more) for more in itertools.combinations(range(OLD, BLOCKS), depth - OLD)]
    return sorted(random.Random(depth).sample(found, min(DRAWN, len(found))))


def errors(choices: list[tuple[int, ...]]) -> dict[str, list[float]]:
    """Each subset's error at each timestep, where a search looks, with all timesteps."""
    states = calibration(open_model(locate("sanac:tiny")), CalibrationSettings(num_prompts=SEARCHED), every=1)
    with torch.no_grad():
        found = states.sample().errors(choices, SweepBatch.of(500_000_000, states.state_bytes, len(choices)))
    return {str(kept): error.mean(dim=1).tolist() for kept, error in found.items()}


def score(kept: tuple[int, ...], work: Path) -> dict[str, Any]:
    """Painted and judged on tuning prompts."""
    job = plan_keep(open_model(locate("sanac:tiny")), ",".join(map(str, kept)), WriteOptions(force=True))
    write_partial(job, work / "pruned", NULL_REPORTER)
    generator = open_generator(open_model(locate(str(work / "pruned"))), "cpu")
    found = evaluate(generator, IMAGES, GenerationSettings(batch=32), 0, "tune", NULL_REPORTER)
    return {"kept": list(kept), "score": found.to_json()["overall"]["value"], "frechet": found.distance.frechet}


def fill(depth: int, journal: dict[str, Any], work: Path) -> None:
    """Compute what is missing of one depth."""
    cells = journal["depths"].setdefault(str(depth), {})
    missing = [kept for kept in subsets(depth) if str(kept) not in cells]
    found = errors(missing) if missing else {}
    for kept in missing:
        cells[str(kept)] = score(kept, work) | {"errors": found[str(kept)]}
        click.echo(f"{kept}: {cells[str(kept)]['score']:.3f}", err=True)
        RESULT.write_text(json.dumps(journal) + "\n")


def ranks(values: list[float]) -> np.ndarray:
    """From the smallest, 0, up."""
    return np.argsort(np.argsort(values))


def table(journal: dict[str, Any]) -> None:
    """Spearman's correlation of score and error: of all timesteps' mean, of each fifth of them."""
    click.echo(
        "| blocks | subsets | score | all timesteps | by fifths, noisiest first | best | least error |\n|" + "---|" * 7
    )
    for depth, cells in journal["depths"].items():
        found = sorted(cells.values(), key=lambda cell: -cell["score"])
        scores, by_step = [cell["score"] for cell in found], np.array([cell["errors"] for cell in found])
        parts = [by_step, *np.array_split(by_step, 5, axis=1)]
        apart = [np.corrcoef(ranks(scores), ranks(list(-part.mean(axis=1))))[0, 1] for part in parts]
        least = found[int(by_step.mean(axis=1).argmin())]
        row = (depth, len(found), f"{min(scores):.3f} to {max(scores):.3f}", f"{apart[0]:.2f}")
        fifths = ", ".join(f"{value:.2f}" for value in apart[1:])
        ends = [f"{', '.join(map(str, cell['kept'][OLD:]))}: {cell['score']:.3f}" for cell in (found[0], least)]
        click.echo(f"| {' | '.join(map(str, (*row, fifths, *ends)))} |")


@click.command()
@click.option("--depth", "depths", multiple=True, type=click.IntRange(OLD + 1, BLOCKS - 1))
def main(depths: tuple[int, ...]) -> None:
    """Fill the journal, print the table."""
    torch.set_num_threads(1)
    journal = json.loads(RESULT.read_text()) if RESULT.is_file() else {"machine": machine(), "depths": {}}
    with workplace(None) as work:
        for depth in depths:
            fill(depth, journal, work)
    table(journal)


if __name__ == "__main__":
    main()
