"""What a [target] chooses, beside the full grid: does it lie on the front? `python benchmarks/target.py`, 20 minutes.

benchmarks/target.toml as it is, then without its [target], in one workspace: what both need is made once.
The result goes to docs/results/target.json.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from measure import machine

RECIPE, RESULT = Path(__file__).with_name("target.toml"), Path("docs/results/target.json")


def ran(recipe: Path, workspace: Path) -> Mapping[str, Any]:
    """The outcome of a recipe, whatever its verdict."""
    command = [sys.executable, "-m", "sanac", "run", str(recipe), "--workspace", str(workspace), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    found = json.loads(done.stdout)
    if found["status"] == "error":
        raise SystemExit(f"{recipe}: {found['error']['message']}")
    return found


def shown(outcome: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every variant that was measured."""
    return [{key: row[key] for key in ("variant", "bytes", "score", "ahead")} for row in outcome["variants"]]


@click.command()
@click.option("--workspace", type=click.Path(path_type=Path), default=Path("build/target"), show_default=True)
def main(workspace: Path) -> None:
    """Run both, keep what they said, print the verdict."""
    target = ran(RECIPE, workspace)
    everything = workspace / "grid.toml"
    everything.write_text(RECIPE.read_text().partition("[target]")[0])
    grid = ran(everything, workspace)
    chosen = next(row for row in shown(grid) if row["variant"] == target["chosen"])
    result = {"chosen": chosen, "reasons": target["reasons"], "source": grid["source"], "grid": shown(grid)}
    RESULT.write_text(json.dumps(result | {"machine": machine()}, indent=1) + "\n")
    for row in result["grid"]:
        click.echo(f"| {row['variant']} | {row['bytes']} | {row['score']:.4f} | {'yes' if row['ahead'] else ''} |")
    click.echo("\n".join(target["reasons"]))
    click.echo(f"{chosen['variant']}: {'on the front: met' if chosen['ahead'] else 'NOT on the front: not met'}")


if __name__ == "__main__":
    main()
