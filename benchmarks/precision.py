"""Whether bf16 ranks, chooses and repairs blocks as fp32 does: on sanac:tiny and on two blocks of the full width.

python benchmarks/precision.py             (about ten minutes; docs/results/precision.json)
python benchmarks/precision.py --table

Errors of what each precision chose or fitted are measured in fp32, on held-out prompts.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from measure import machine, workplace
from safetensors.numpy import save_file
from synthetic import SANA_4_8B, write_transformer

from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.family.architecture import Architecture
from sanac.core.progress import NULL_REPORTER
from sanac.judge.rank_statistics import kendall, spearman
from sanac.nn.calibration.job import calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates
from sanac.prune.importance import METRICS
from sanac.prune.repair import fit
from sanac.prune.scoring import measured
from sanac.prune.search_job import find_blocks
from sanac.prune.selection import BlockSelection

RESULT = Path("docs/results/precision.json")
PRECISIONS = ("fp32", "bf16")
DEPTHS, SEARCHED = (10, 8, 6, 4), (8, 6)
CAPTIONS, TOKENS, SIDE = 12, 20, 8  # of the two wide blocks' calibration


def states_of(model: Model, settings: CalibrationSettings) -> list[CalibrationStates]:
    """States for fitting, choosing the ridge and judging, in the settings' precision."""
    with torch.no_grad():
        return calibration(model, settings, every=4).states([1, 1])


def repaired(model: Model, kept: tuple[int, ...], settings: CalibrationSettings, judge: CalibrationStates) -> float:
    """Velocity error in fp32 after a repair that was fitted in the settings' precision."""
    fitted, chosen, _ = states_of(model, settings)
    with torch.no_grad():
        found = fit(fitted, chosen, kept)
        changes = {name: change.float() for name, change in found.changes.items()}
        return float(judge.changed(changes).errors([kept])[kept].mean())


def compared(model: Model, settings: CalibrationSettings, depths: tuple[int, ...], work: Path) -> dict[str, Any]:
    """Scores, kept blocks and repairs of both precisions."""
    blocks = model.architecture.blocks
    ways = {name: replace(settings, precision=name, velocity=True) for name in PRECISIONS}
    scores = {name: measured(model, way, work, NULL_REPORTER) for name, way in ways.items()}
    found: dict[str, Any] = {"blocks": blocks, "metrics": {}}
    for metric in METRICS:
        fp32, bf16 = ([score.value for score in scores[name].metrics[metric]] for name in PRECISIONS)
        overlap = {depth: len(_best(fp32, depth) & _best(bf16, depth)) / depth for depth in depths}
        difference = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(fp32, bf16, strict=True))
        ranks = {"spearman": spearman(fp32, bf16), "kendall": kendall(fp32, bf16)}
        found["metrics"][metric] = {**ranks, "overlap": overlap, "largest_difference": difference}
    judge = states_of(model, ways["fp32"])[2]
    found["repair"] = {}
    for depth in depths[1:] or depths:
        kept = tuple(sorted(_best([score.value for score in scores["fp32"].metrics["bi"]], depth)))
        with torch.no_grad():
            plain = float(judge.errors([kept])[kept].mean())
        found["repair"][depth] = {"pruned": plain} | {
            name: repaired(model, kept, way, judge) for name, way in ways.items()
        }
    with torch.no_grad():
        halves = states_of(model, ways["bf16"])[2].blocks
        every = tuple(range(blocks))
        captions = judge.captions.to(halves.device, halves.dtype)
        rounded = replace(judge, blocks=halves, outside=halves.outside(), captions=captions)
        found["rounding"] = float(rounded.errors([every])[every].mean())
    return found


def searched(model: Model, work: Path) -> dict[str, Any]:
    """What a search keeps in both precisions, and the fp32 error of both on held-out prompts."""
    judge = states_of(model, CalibrationSettings(num_prompts=32, seed=5))[2]
    found: dict[str, Any] = {}
    for depth in SEARCHED:
        choice = BlockSelection("search", depth)
        kept = {
            name: find_blocks(
                model, choice, CalibrationSettings(precision=name), ConfinedPath(work), NULL_REPORTER
            ).kept
            for name in PRECISIONS
        }
        with torch.no_grad():
            errors = judge.errors(list(dict.fromkeys(kept.values())))
        found[str(depth)] = {name: [list(blocks), float(errors[blocks].mean())] for name, blocks in kept.items()}
    return found


def wide(work: Path, shape: Architecture) -> Model:
    """Blocks of the full width with random weights, for small latents."""
    folder = work / f"wide-{shape.blocks}"
    write_transformer(folder, shape, shards=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sample_size": SIDE}))
    return open_model(locate(str(folder)))


def captions_file(work: Path, count: int) -> Path:
    """Made-up caption embeddings to sample with."""
    chance, file = np.random.default_rng(1), work / "captions.safetensors"
    captions = chance.standard_normal((count, TOKENS, SANA_4_8B.caption_channels), dtype=np.float32)
    empty = chance.standard_normal((1, 2, SANA_4_8B.caption_channels), dtype=np.float32)
    masks = np.ones((count, TOKENS), np.int64), np.ones((1, 2), np.int64)
    save_file({"embeddings": captions, "mask": masks[0], "empty": empty, "empty_mask": masks[1]}, file)
    return file


def _best(values: list[float], depth: int) -> set[int]:
    return set(sorted(range(len(values)), key=lambda index: -values[index])[:depth])


def show(result: Mapping[str, Any]) -> None:
    """The tables in Markdown."""
    click.echo("| model | score | Spearman | Kendall | blocks kept alike | largest difference of a score |")
    click.echo("|---|---|---|---|---|---|")
    for name in ("sanac:tiny", "width 2240"):
        for metric, cell in result[name]["metrics"].items():
            alike = ", ".join(f"{share:.0%} of {depth}" for depth, share in cell["overlap"].items())
            ranks = " | ".join("" if cell[one] is None else f"{cell[one]:.3f}" for one in ("spearman", "kendall"))
            click.echo(f"| {name} | {metric} | {ranks} | {alike} | {cell['largest_difference']:.1%} |")
    click.echo("\n| model | blocks kept | pruned | repaired in fp32 | repaired in bf16 | rounding alone |")
    click.echo("|---|---|---|---|---|---|")
    for name in ("sanac:tiny", "width 2240"):
        for depth, cell in result[name]["repair"].items():
            errors = " | ".join(f"{cell[one]:.4f}" for one in ("pruned", *PRECISIONS))
            click.echo(f"| {name} | {depth} of {result[name]['blocks']} | {errors} | {result[name]['rounding']:.1e} |")
    click.echo("\n| sanac:tiny, searched | in fp32 | in bf16 |\n|---|---|---|")
    for depth, cell in result["search"].items():
        words = " | ".join(f"{','.join(map(str, kept))}: {error:.4f}" for kept, error in cell.values())
        click.echo(f"| {depth} blocks | {words} |")


@click.command()
@click.option("--table", is_flag=True, help="Print the tables of what is known.")
def main(*, table: bool) -> None:
    """Compare, and print the tables."""
    if not table:
        with workplace(None) as work:
            tiny = open_model(locate("sanac:tiny"))
            result: dict[str, Any] = {"machine": machine()}
            result["sanac:tiny"] = compared(tiny, CalibrationSettings(num_prompts=48, timesteps=10), DEPTHS, work)
            model, captions = wide(work, replace(SANA_4_8B, blocks=2)), captions_file(work, CAPTIONS)
            settings = CalibrationSettings(embeddings=captions, timesteps=8, memory_limit=8_000_000_000)
            result["width 2240"] = compared(model, settings, (1,), work)
            result["search"] = searched(tiny, work)
            RESULT.write_text(json.dumps(json.loads(json.dumps(result))) + "\n")
    show(json.loads(RESULT.read_text()))


if __name__ == "__main__":
    main()
