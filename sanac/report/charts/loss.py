"""Archives a training run in the artifact's measurements: metrics, loss chart and sample images."""

import json
from pathlib import Path
from typing import Any

from sanac.core.artifact.measurements import measurements_in, write_measurement
from sanac.core.atomic import atomic_path, write_atomically
from sanac.core.confined import ConfinedPath
from sanac.core.context import Context, Outcome
from sanac.finetune.job import TrainingView
from sanac.finetune.settings import FinetuneSettings

_NUMBERS = "metrics.jsonl"


def archive_run(folder: ConfinedPath, out: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Copy metrics and samples of a run to the artifact and delete its folder; returns (report, flat metrics)."""
    place = measurements_in(out)
    path = folder / _NUMBERS
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    if lines:
        place.mkdir(exist_ok=True)
        write_atomically(place / "finetune.jsonl", path.read_bytes())
        draw([line["step"] for line in lines], [line["loss"] for line in lines], place / "loss.png")
    samples = folder / "samples"
    if samples.is_dir():
        (place / "samples").mkdir(parents=True, exist_ok=True)
        for image in samples.iterdir():
            write_atomically(place / "samples" / image.name, image.read_bytes())
    folder.rmtree()
    if not lines:
        return {}, {}
    speed = sorted(line["steps_per_second"] for line in lines)[len(lines) // 2]
    metrics = {"loss_first": lines[0]["loss"], "loss_last": lines[-1]["loss"], "steps_per_second": speed}
    return {"steps": lines[-1]["step"], **metrics}, metrics


def draw(steps: list[int], losses: list[float], path: ConfinedPath) -> None:
    """Write a chart of the loss by step."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axes.plot(steps, losses, color="#4575b4")
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes.grid(alpha=0.3)
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)


def archive_outcome(outcome: Outcome, settings: FinetuneSettings, context: Context) -> Outcome:
    """Keep a run's numbers, chart and images beside the artifact, and delete its resume state."""
    view = outcome.view
    if settings.dry_run or not isinstance(view, TrainingView) or not view.folder.is_dir():
        return outcome
    assert outcome.out is not None
    report, metrics = archive_run(view.folder, outcome.out)
    if report:
        write_measurement(outcome.out, "finetune", {**view.about, **report}, metrics)
        loss = f"loss {report['loss_first']:.4f} -> {report['loss_last']:.4f}"
        context.reporter.note(f"{loss} in {report['steps']:,} steps")
    return outcome
