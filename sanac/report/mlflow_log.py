"""Logs a recipe run to MLflow: settings, metrics and measurement files."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from sanac.core.errors import MissingResource
from sanac.core.requirements import install_command


class LoggedStage(Protocol):
    """A stage of a recipe: a verb and its settings."""

    @property
    def verb(self) -> str:
        """Name of the verb."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the stage."""
        ...


def flat(steps: Sequence[LoggedStage]) -> dict[str, str]:
    """All settings as 'verb.setting' -> value, e.g. 'prune.target_blocks': '6'."""
    found: dict[str, str] = {}
    for step in steps:
        for name, value in step.settings.items():
            key = f"{step.verb}.{name}"
            found[key] = f"{found[key]}; {value}" if key in found else str(value)
    return found


def log(
    experiment: str, name: str, params: Mapping[str, str], metrics: Mapping[str, float], artifacts: Sequence[Path]
) -> None:
    """Log one run to the server named by MLFLOW_TRACKING_URI."""
    try:
        import mlflow
    except ImportError as error:
        raise MissingResource("mlflow is not installed", hint=install_command("mlflow")) from error
    try:
        with redirect_stdout(sys.stderr):  # mlflow prints the run's URL
            mlflow.set_experiment(experiment)
            with mlflow.start_run(run_name=name):
                mlflow.log_params(dict(params))
                mlflow.log_metrics(dict(metrics))
                for folder in artifacts:
                    mlflow.log_artifacts(str(folder), artifact_path=folder.name)
    except mlflow.exceptions.MlflowException as error:
        why = str(error).splitlines()[0][:300]
        raise MissingResource("logging to mlflow failed", why=why, hint="check MLFLOW_TRACKING_URI") from error
