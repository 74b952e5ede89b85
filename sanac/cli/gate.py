"""`sanac gate`: is it good enough to go on?"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sanac.cli.model_argument import open_word
from sanac.cli.options import Common, common
from sanac.cli.output import DENIED, Result

if TYPE_CHECKING:
    from sanac.core.check import Check


@click.command(
    "gate",
    short_help="Is it good enough to go on?",
    epilog="""\b
Examples:
  sanac gate ./recovered --gates gates.toml
  sanac gate ./recovered --gates gates.toml --baseline sanac-out/evaluate-sanac-tiny --junit gates.xml""",
)
@click.argument("artifact", metavar="DIR")
@click.option("--gates", type=click.Path(path_type=Path), required=True, metavar="FILE", help="TOML, [[gate]] tables.")
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    metavar="MODEL",
    help="What shares are of: a model, or a folder with its measurements. May be repeated.",
)
@click.option("--junit", type=click.Path(path_type=Path), metavar="FILE", help="A JUnit file, too.")
@common("seed", "device")
def command(artifact: str, gates: Path, baselines: tuple[str, ...], junit: Path | None, common: Common) -> Result:
    """Hold what was measured of the artifact DIR to the limits in FILE. Exit 5 if one isn't kept.

    A metric that is named and was not measured is a no. On GitHub Actions, failures are marked and the step's page
    shows all; everything is written whatever the verdict.
    """
    from sanac.verify.gates import check_baseline, judge, numbers_of, read_gates, require_measured

    wanted = read_gates(gates)
    check_baseline(wanted, baselines)
    opened = open_word(artifact, common)
    require_measured(opened.located.path)
    base = {name: number for word in baselines for name, number in _numbers(word, common).items()}
    verdicts = judge(wanted, numbers_of(opened), base if baselines else None)
    tell(verdicts, opened.located.path, f"sanac gate {opened.located.name}", junit)
    passed = all(verdict.passed for verdict in verdicts)
    data = {"passed": passed, "gates": [verdict.to_json() for verdict in verdicts]}
    status, code = ("ok", 0) if passed else ("failed", DENIED)
    return Result(status, lambda: show(verdicts), data, str(opened.located.path), common.as_json, code)


def _numbers(word: str, common: Common) -> dict[str, float]:
    """A model's sizes and measurements; of a folder that only has measurements, those."""
    from sanac.verify.gates import measured_in, numbers_of

    alone = measured_in(Path(word))
    if alone and not (Path(word) / "model_index.json").exists():
        return alone
    return numbers_of(open_word(word, common))


def tell(verdicts: "Sequence[Check]", home: Path, title: str, junit: Path | None) -> None:
    """Everyone who waits for verdicts: the measurements, JUnit, GitHub Actions."""
    from sanac.core.artifact.measurements import write_measurement
    from sanac.report import ci

    failed = [verdict for verdict in verdicts if not verdict.passed]
    value = {"passed": not failed, "gates": [verdict.to_json() for verdict in verdicts]}
    write_measurement(home, "gate", value, {"failed": len(failed), "passed": len(verdicts) - len(failed)})
    if junit:
        ci.junit(junit, title, verdicts)
    ci.write_summary(ci.summary(title, verdicts))
    for line in ci.annotations(verdicts):
        click.echo(line, err=True)


def show(verdicts: "Sequence[Check]") -> None:
    """One line each."""
    for verdict in verdicts:
        click.echo(f"{'ok' if verdict.passed else 'NO'}  {verdict.text}")
    failed = sum(not verdict.passed for verdict in verdicts)
    click.echo(f"{failed} of {len(verdicts)} limits are not kept" if failed else f"all {len(verdicts)} limits are kept")
