"""Prints the times of `sanac bench`: a table per batch size, then loading and memory."""

import click

from sanac.cli.tables import console, table
from sanac.core.context import Outcome
from sanac.core.units import bytes_text
from sanac.verify.bench import STEP, BenchReport, Measured, Times
from sanac.verify.bench_job import BenchView

_TITLES = ("step ms", "p90", "faster", "from", "to", "text ms", "decoder", "image", "images/s")


def show(outcome: Outcome, *, color: bool) -> None:
    """Print times, memory, and the files."""
    del color
    view: BenchView = outcome.view
    found = view.report
    for batch in found.settings.batches:
        _show_times(found, batch)
    rows = table(("model", "backend", "on"), ("load s", "first call s", "memory", "with files", "GPU"))
    for one in found.measured:
        rows.add_row(*_memory_row(one, found.settings.batches[0]))
    console(color=False).print(rows)
    for path in view.files:
        click.echo(path)


def _show_times(found: BenchReport, batch: int) -> None:
    rows = table(("model", "backend"), _TITLES)
    for one in found.measured:
        ratio, image, step = one.ratio(found.measured[0], batch), one.times(batch, "image"), one.times(batch, STEP)
        cells = [_ms(step), f"{1000 * step.p90:.1f}" if step else ""]
        cells += [f"{number:.2f}" for number in (ratio.median, ratio.least, ratio.most)]
        cells += [_ms(one.times(batch, part)) for part in ("text_encoder", "decoder", "image")]
        cells += [f"{batch / image.median:.2f}" if image else ""]
        rows.add_row(one.subject.name, one.subject.backend, *cells)
    if len(found.settings.batches) > 1:
        click.echo(f"batch {batch}")
    console(color=False).print(rows)


def _ms(times: Times | None) -> str:
    return f"{1000 * times.median:.1f}" if times else ""


def _memory_row(one: Measured, batch: int) -> list[str]:
    sizes = [bytes_text(size) for size in (one.anonymous, one.resident)]
    gpu = bytes_text(one.on_device) if one.on_device else ""
    return [one.subject.name, one.subject.backend, one.device, f"{one.load:.2f}", f"{one.warm[batch]:.2f}", *sizes, gpu]
