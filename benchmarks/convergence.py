"""How many prompts and sampler steps block scores need: fewer of both, against the defaults.

python benchmarks/convergence.py           (about ten minutes; docs/results/convergence.json)
python benchmarks/convergence.py --table

Fewer prompts are other prompts of the list and other noise: three draws each. On sanac:tiny against 100 prompts x 20
steps, and on twelve blocks of the full width with random weights, in bf16, against 24 x 8.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from measure import machine, workplace
from precision import captions_file, wide
from synthetic import SANA_4_8B

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.judge.rank_statistics import spearman
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.prune.scoring import measured

RESULT = Path("docs/results/convergence.json")
DRAWS, DEPTHS = 3, (8, 6, 4)
TINY, WIDE = ((100, 20), (32, 10), (16, 5), (8, 4), (4, 2)), ((24, 8), (16, 5), (8, 4), (4, 2))


def scores(model: Model, settings: CalibrationSettings, work: Path) -> list[float]:
    """Block importance of every block."""
    return [score.value for score in measured(model, settings, work, NULL_REPORTER).metrics["bi"]]


def compared(
    model: Model, settings: CalibrationSettings, sizes: Sequence[tuple[int, int]], work: Path
) -> list[dict[str, Any]]:
    """Each size's rank correlation and overlap with the first one's, the worst of three draws."""
    settings = replace(settings, yes=True)
    (prompts, steps), found = sizes[0], []
    whole = scores(model, replace(settings, num_prompts=prompts, timesteps=steps), work)
    for prompts, steps in sizes[1:]:
        draws = [
            scores(model, replace(settings, num_prompts=prompts, timesteps=steps, seed=1 + seed), work)
            for seed in range(DRAWS)
        ]
        ranks = [spearman(whole, one) or 0.0 for one in draws]
        overlap = {
            str(depth): min(len(_best(whole, depth) & _best(one, depth)) / depth for one in draws) for depth in DEPTHS
        }
        error = max(float(np.max(np.abs(np.subtract(one, whole)) / np.abs(whole))) for one in draws)
        found.append(
            {"prompts": prompts, "steps": steps, "spearman": min(ranks), "overlap": overlap, "difference": error}
        )
    return found


def _best(values: Sequence[float], depth: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda index: -values[index])[:depth])


def show(result: Mapping[str, Any]) -> None:
    """A Markdown table per model."""
    for name in ("sanac:tiny", "width 2240"):
        whole = " x ".join(map(str, result["sizes"][name]))
        click.echo(f"\n{name}, against {whole}; the worst of {DRAWS} draws\n")
        click.echo("| prompts x steps | Spearman | of 8, 6, 4 blocks the same | largest difference of a score |")
        click.echo("|---|---|---|---|")
        for row in result[name]:
            shares = ", ".join(f"{share:.0%}" for share in row["overlap"].values())
            size = f"{row['prompts']} x {row['steps']}"
            click.echo(f"| {size} | {row['spearman']:.3f} | {shares} | {row['difference']:.0%} |")


@click.command()
@click.option("--table", is_flag=True, help="Print the tables of what is known.")
def main(*, table: bool) -> None:
    """Compare, and print the tables."""
    if not table:
        with workplace(None) as work:
            result: dict[str, Any] = {"machine": machine(), "sizes": {"sanac:tiny": TINY[0], "width 2240": WIDE[0]}}
            tiny = open_model(locate("sanac:tiny"))
            result["sanac:tiny"] = compared(tiny, CalibrationSettings(), TINY, work)
            model = wide(work, replace(SANA_4_8B, blocks=12))
            captions = captions_file(work, WIDE[0][0])
            settings = CalibrationSettings(embeddings=captions, precision="bf16", memory_limit=8_000_000_000)
            result["width 2240"] = compared(model, settings, WIDE, work)
            RESULT.write_text(json.dumps(result) + "\n")
    show(json.loads(RESULT.read_text()))


if __name__ == "__main__":
    main()
