"""Who reads a recipe's outcome: measurements, JUnit, CI summary and annotations, MLflow."""

from pathlib import Path

from sanac.core.artifact.measurements import write_measurement
from sanac.core.artifact.staging import MEASUREMENTS
from sanac.report import mlflow_log
from sanac.report.publish import publish_checks
from sanac.run.outcome import RecipeOutcome, table_of


def publish(ran: RecipeOutcome, workspace: Path, junit: Path | None, mlflow: str | None) -> tuple[str, ...]:
    """Write the outcome wherever it is read; returns the lines of CI annotations."""
    title = f"sanac run {ran.plan.recipe.name}"
    value = ran.to_json(names=True)
    numbers = dict(ran.chosen.numbers) if ran.chosen else {}
    metrics = {"passed": float(ran.passed), "failed": float(sum(not check.passed for check in ran.checks))}
    home = Path(ran.chosen.folder) if ran.chosen and ran.chosen.variant.stages else workspace
    write_measurement(home, "gate", value, metrics)
    write_measurement(workspace, "run", value, {**metrics, **numbers})
    lines = publish_checks(ran.checks, title, junit, table_of(ran))
    if mlflow:
        params = mlflow_log.flat(ran.plan.recipe.steps)
        params |= {key: str(value) for key, value in (ran.chosen.variant.values if ran.chosen else {}).items()}
        mlflow_log.log(mlflow, title, params, numbers, [home / MEASUREMENTS])
    return lines
