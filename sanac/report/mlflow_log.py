"""MLflow: what was asked for, what was measured, and the files that hold it."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

from sanac.core.errors import MissingResource


class LoggedStage(Protocol):
    """A verb with its settings."""

    @property
    def verb(self) -> str:
        """Its name."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was said of it."""
        ...


def flat(steps: Sequence[LoggedStage]) -> dict[str, str]:
    """Settings by name: 'prune.target_blocks': '6'."""
    found: dict[str, str] = {}
    for step in steps:
        for name, value in step.settings.items():
            key = f"{step.verb}.{name}"
            found[key] = f"{found[key]}; {value}" if key in found else str(value)
    return found


def log(
    experiment: str, name: str, params: Mapping[str, str], metrics: Mapping[str, float], artifacts: Sequence[Path]
) -> None:
    """One run, where MLFLOW_TRACKING_URI says."""
    try:
        import mlflow
    except ImportError as error:
        raise MissingResource("mlflow is not installed", hint="pip install 'sanac[mlflow]'") from error
    try:
        with redirect_stdout(sys.stderr):  # it tells where a run can be seen
            mlflow.set_experiment(experiment)
            with mlflow.start_run(run_name=name):
                mlflow.log_params(dict(params))
                mlflow.log_metrics(dict(metrics))
                for folder in artifacts:
                    mlflow.log_artifacts(str(folder), artifact_path=folder.name)
    except mlflow.exceptions.MlflowException as error:
        why = str(error).splitlines()[0][:300]
        raise MissingResource("nothing was logged to mlflow", why=why, hint="set MLFLOW_TRACKING_URI") from error
