"""Blocks chosen by the velocity against blocks chosen by images, with and without a repair, on test prompts.

python benchmarks/confirm.py --work build/confirm     (half an hour on one core; docs/results/confirm.json)
python benchmarks/confirm.py --table

Both choose on training and tuning prompts. 512 test prompts are scored with the same noises; differences are paired.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from measure import machine
from schedule import scores_of

import sanac
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.judge.intervals import overall, paired_difference
from sanac.nn.generation import GenerationSettings
from sanac.runtime.pipeline import open_generator
from sanac.verify.shapes_suite import evaluate

RESULT = Path("docs/results/confirm.json")
IMAGES = 512
DEPTHS = (8, 6)


def names() -> dict[str, dict[str, Any]]:
    """The settings of `sanac prune` of each row."""
    found = {}
    for blocks in DEPTHS:
        for compensate in (False, True):
            for confirm in (None, "shapes"):
                how = "images" if confirm else "velocity"
                name = f"{blocks} blocks, {'repaired' if compensate else 'not repaired'}, by {how}"
                found[name] = {
                    "target_blocks": blocks,
                    "select": "search",
                    "compensate": compensate,
                    "confirm": confirm,
                }
    return found


def measured(settings: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Which blocks were kept, and whether each image is right."""
    made = sanac.open("sanac:tiny", workspace=work).prune(**{k: v for k, v in settings.items() if v})
    opened = open_model(locate(made.path))
    assert opened.manifest is not None
    found = evaluate(open_generator(opened), IMAGES, GenerationSettings(batch=32), 0, "test", NULL_REPORTER)
    correct = "".join(str(int(result.correct)) for result in found.results[:IMAGES])
    return {"kept": list(opened.manifest.origins or ()), "correct": correct}


def differences(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Images minus velocity, by depth and repair."""
    found = {}
    for blocks in DEPTHS:
        for repair in ("not repaired", "repaired"):
            name = f"{blocks} blocks, {repair}"
            pair = [rows.get(f"{name}, by {how}") for how in ("images", "velocity")]
            if all(pair):
                found[name] = paired_difference(*(scores_of(row["correct"], IMAGES) for row in pair)).to_json()
    return found


def show(rows: Mapping[str, Any]) -> None:
    """The table."""
    click.echo("| blocks | repair | by the velocity | by images | difference |\n|---|---|---|---|---|")
    for blocks in DEPTHS:
        for repair in ("not repaired", "repaired"):
            pair = [rows.get(f"{blocks} blocks, {repair}, by {how}") for how in ("velocity", "images")]
            if not all(pair):
                continue
            scores = [scores_of(row["correct"], IMAGES) for row in pair]
            cells = [f"{overall(one).value:.3f}" for one in scores]
            gain = paired_difference(scores[1], scores[0]).interval
            click.echo(
                f"| {blocks} | {repair} | {' | '.join(cells)} | {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] |"
            )


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("build/confirm"), help="Where models are made.")
@click.option("--table", is_flag=True, help="Show what was measured.")
def main(*, work: Path, table: bool) -> None:
    """Measure what is missing, and show the table."""
    found: dict[str, Any] = {"machine": machine(), "rows": {}}
    if RESULT.exists():
        found = json.loads(RESULT.read_text())
    for name, settings in names().items():
        if table or name in found["rows"]:
            continue
        found["rows"][name] = measured(settings, work)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
        click.echo(f"{name}: {found['rows'][name]['kept']}", err=True)
    if not table:
        found["differences"] = differences(found["rows"])
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    show(found["rows"])


if __name__ == "__main__":
    main()
