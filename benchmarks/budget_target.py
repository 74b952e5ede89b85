"""What a [target] with a budget chooses, beside the full grid: is it on the Pareto front?

python benchmarks/budget_target.py      (half an hour on one core)
python benchmarks/budget_target.py --verifier shapes --images 24 --steps 4 --budget 24 --budget 96 --result /tmp/x.json
python benchmarks/budget_target.py --table

Every point of benchmarks/budget_target.toml (depth x candidates) is measured on test prompts; then the recipe runs once
per budget, in the same workspace: what both need is made once. The target itself screens on tuning prompts. The front
is that of the score against block-forwards. Of a choice that isn't on it, the paired difference to the best point that
costs no more says whether that could be chance.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from measure import machine

from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.run.points import points_of
from sanac.run.recipe_checks import read_recipe
from sanac.run.runner import RecipeRunner
from sanac.run.scores import Measured, difference
from sanac.run.stage_graph import plan_of

RECIPE, RESULT = Path(__file__).with_name("budget_target.toml"), Path("docs/results/budget-target.json")
BUDGETS = (120.0, 240.0, 480.0)  # half, one and two pictures of the twelve blocks


@dataclass(frozen=True)
class GridPoint:
    """A point that was measured in full."""

    variant: str
    samples: int
    cost: float
    score: Mapping[str, float]
    measured: Measured

    def beats(self, other: "GridPoint") -> bool:
        """Whether it is on the front where the other one isn't: no more expensive, no worse, and not the same."""
        ours, theirs = (self.cost, -self.score["value"]), (other.cost, -other.score["value"])
        return ours != theirs and all(mine <= its for mine, its in zip(ours, theirs, strict=True))

    def to_json(self) -> dict[str, Any]:
        """The point as JSON."""
        return {"variant": self.variant, "samples": self.samples, "block_forwards": self.cost, "score": self.score}


def grid_of(file: Path, workspace: Path) -> list[GridPoint]:
    """Every point of a recipe, measured on test prompts whatever it costs."""
    recipe = read_recipe(file)
    plan = plan_of(recipe, open_model(locate(recipe.model)).identity())
    runner = RecipeRunner(recipe.model, workspace.absolute(), NULL_REPORTER, ("-q",))
    found = []
    for variant in plan.variants:
        for stage in variant.stages:
            runner.run(stage)
        made = open_model(locate(runner.place(variant.last)))
        for point in points_of(plan, variant, made):
            sampled = plan.sampled(point.samples)
            (done,) = map(runner.run, sampled.evaluations(variant))
            measured = Measured(done.out, sampled.measurement)
            found.append(GridPoint(variant.name, point.samples, point.block_forwards, done.data["overall"], measured))
            click.echo(
                f"{point.name}: {point.block_forwards:g} block-forwards, {found[-1].score['value']:.4f}", err=True
            )
    return found


def chosen_by(file: Path, workspace: Path) -> Mapping[str, Any]:
    """The outcome of the recipe, which must choose a point."""
    command = [sys.executable, "-m", "sanac", "run", str(file), "--workspace", str(workspace), "--json", "-q"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found: Mapping[str, Any] = json.loads(done.stdout)
    if done.returncode:
        raise SystemExit(f"{file}: {found.get('error', found.get('reasons'))}")
    return found


def judged(outcome: Mapping[str, Any], budget: float, grid: Sequence[GridPoint]) -> dict[str, Any]:
    """A choice, whether it is on the full grid's front, and how far it is from the best point that costs no more."""
    ours = next(one for one in grid if (one.variant, one.samples) == (outcome["chosen"], outcome["samples"]))
    rivals = [one for one in grid if one.beats(ours)]
    best = max((one for one in grid if one.cost <= budget), key=lambda one: (one.score["value"], -one.cost))
    found = {"budget": budget, **ours.to_json(), "front": not rivals, "best_within": best.to_json()}
    found |= {"below_best": difference(ours.measured, best.measured).to_json(), "reasons": outcome["reasons"]}
    if rivals:
        rival = max(rivals, key=lambda one: one.score["value"])
        found |= {"beaten_by": rival.to_json(), "gap": difference(ours.measured, rival.measured).to_json()}
    return found


def recipe_text(verifier: str, images: int, steps: int | None, budget: float) -> str:
    """The recipe with another verifier, number of images or steps, and budget."""
    text = RECIPE.read_text().replace("judge:sanac:tiny", verifier).replace("images = 128", f"images = {images}")
    text = text.replace("[matrix]", f"steps = {steps}\n[matrix]") if steps else text
    return text.replace("max_block_forwards = 240", f"max_block_forwards = {budget:g}")


def table(result: Mapping[str, Any]) -> str:
    """The grid and the choices as tables of Markdown."""
    points = sorted(result["grid"], key=lambda one: one["block_forwards"])
    picks = {(one["variant"], one["samples"]) for one in result["chosen"]}
    lines = ["| blocks | candidates | block-forwards | score | |", "|---|---|---|---|---|"]
    for one in points:
        marks = ["on the Pareto front"] * one["front"]
        marks += ["chosen"] * ((one["variant"], one["samples"]) in picks)
        score = "{value:.3f} [{low:.3f}, {high:.3f}]".format(**one["score"])
        depth = one["variant"].partition("=")[2]
        lines.append(f"| {depth} | {one['samples']} | {one['block_forwards']:g} | {score} | {', '.join(marks)} |")
    lines += [
        "",
        "| budget | chosen | block-forwards | score | less than the best within the budget |",
        "|---|---|---|---|---|",
    ]
    for one in result["chosen"]:
        below = "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**one["below_best"])
        depth, score = one["variant"].partition("=")[2], one["score"]["value"]
        name = f"{depth} blocks, {one['samples']} candidates"
        lines.append(f"| {one['budget']:g} | {name} | {one['block_forwards']:g} | {score:.3f} | {below} |")
    return "\n".join(lines)


@click.command()
@click.option("--workspace", type=click.Path(path_type=Path), default=Path("build/budget-target"), show_default=True)
@click.option("--verifier", default="judge:sanac:tiny", show_default=True, help="What chooses among candidates.")
@click.option("--images", default=128, show_default=True, help="Images of test prompts.")
@click.option("--steps", type=int, default=None, help="Sampler steps, if not the default.")
@click.option("--budget", "budgets", type=float, multiple=True, default=BUDGETS, show_default=True)
@click.option("--result", type=click.Path(path_type=Path), default=RESULT, show_default=True)
@click.option("--table", "only_table", is_flag=True, help="Print the tables of the recorded result.")
def main(
    workspace: Path,
    verifier: str,
    images: int,
    steps: int | None,
    budgets: tuple[float, ...],
    result: Path,
    *,
    only_table: bool,
) -> None:
    """Measure the grid, run the recipe for each budget, keep what they said, print tables and the verdict."""
    if only_table:
        click.echo(table(json.loads(result.read_text())))
        return
    workspace.mkdir(parents=True, exist_ok=True)
    file = workspace / RECIPE.name
    file.write_text(recipe_text(verifier, images, steps, budgets[0]))
    grid = grid_of(file, workspace)
    picks = []
    for budget in budgets:
        file.write_text(recipe_text(verifier, images, steps, budget))
        picks.append(judged(chosen_by(file, workspace), budget, grid))
    points = [{**one.to_json(), "front": not any(other.beats(one) for other in grid)} for one in grid]
    about = {"verifier": verifier, "images": images, "grid": points, "chosen": picks, "machine": machine()}
    result.write_text(json.dumps(about, indent=1) + "\n")
    click.echo(table(about))
    missed = [one for one in picks if not one["front"]]
    for one in missed:
        rival, gap = one["beaten_by"], "{value:+.3f} [{low:+.3f}, {high:+.3f}]".format(**one["gap"])
        said = f"{rival['variant']}, {rival['samples']} candidates costs no more; the difference to it is {gap}"
        chance = "which may be chance" if one["gap"]["high"] >= 0 else "which is no chance"
        click.echo(f"budget {one['budget']:g}: NOT on the front: {said}, {chance}")
    click.echo("NOT met" if missed else "every choice is on the full grid's front: met")


if __name__ == "__main__":
    main()
