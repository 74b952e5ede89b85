"""Prints what `sanac export` did: the artifact, its engines, and how graphs and engines compare with the model."""

from collections.abc import Sequence

import click

from sanac.cli.views import verify
from sanac.cli.views.artifact import show_artifact
from sanac.core.artifact.engine_record import NEVER
from sanac.core.context import Outcome
from sanac.core.units import bytes_text
from sanac.core.write.run import ArtifactView
from sanac.export.job import ExportView


def show(outcome: Outcome, *, color: bool) -> None:
    """Print the artifact or what was added to it, then engines, then comparisons."""
    del color
    view: ExportView = outcome.view
    if isinstance(view.written, ArtifactView):
        show_artifact(view.written, str(outcome.out))
    else:
        click.echo(view.written)
    _show_engines(view)
    for found in view.comparisons:
        verify.show_report(found)


def _show_engines(view: ExportView) -> None:
    for file, record in view.engines.items():
        click.echo(f"{file}: {bytes_text(record.size)}, {record.executed}")
        for name, entry in record.inputs.items():
            click.echo(f"  {name}: {_shape(entry['least'])} to {_shape(entry['most'])}")
    if any(record.executed == NEVER for record in view.engines.values()):
        click.echo("engine files were checked, not executed; sanac verify --backend trt on the GPU completes the proof")


def _shape(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
