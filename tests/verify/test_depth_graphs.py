"""The graph of a depth is compared with the reference cut to the blocks of that depth, and to no others."""

from dataclasses import replace
from pathlib import Path

import pytest

from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.schedule import Schedule
from sanac.core.check import Check
from sanac.core.checkpoint.locate import locate
from sanac.core.json_files import pretty
from sanac.nn.pipeline_config import noise_levels
from sanac.verify.depth_graphs import compare_depths
from sanac.verify.onnx_candidates import Candidate
from sanac.verify.parity import Case, cases
from sanac.verify.parity_backends import TorchBackend

ORDER, DEPTHS = (0, 5, 2, 1, 4, 3), (2, 4)


@pytest.fixture(scope="module")
def scheduled(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Model:
    import shutil

    folder = tmp_path_factory.mktemp("depths") / "scheduled"
    shutil.copytree(pipeline, folder)
    levels = noise_levels(open_model(locate(str(pipeline))), 4)
    made = Schedule(ORDER, levels, (2, 2, 4, 6), (True,) * 4)
    (folder / "schedule.json").write_bytes(pretty(made.to_json()))
    return open_model(locate(str(folder)))


def compared(model: Model, wrong: int = 0) -> list[Check]:
    """The checks of each depth, with a backend that runs `wrong` blocks more than its depth says."""
    schedule = model.schedule
    assert schedule
    graphs = {depth: Candidate(Path(str(depth)), "fp32", rounds_activations=False) for depth in DEPTHS}

    def opened(graph: Candidate) -> TorchBackend:
        return TorchBackend(model, "cpu", schedule.kept(int(graph.path.name) + wrong))

    def fitted(case: Case, _graph: Candidate) -> Case:
        return replace(case)

    return compare_depths(model, model, graphs, cases()[:2], opened, fitted, limit=None, device="cpu")


def test_the_same_blocks_agree(scheduled: Model) -> None:
    checks = compared(scheduled)
    assert [check.name.partition(" blocks")[0] for check in checks if "relative error" in check.name] == ["2", "4"]
    assert all(check.passed for check in checks)


@pytest.mark.parametrize("wrong", [-1, 1])
def test_a_graph_of_other_blocks_is_seen(scheduled: Model, wrong: int) -> None:
    failed = {check.name.partition(" blocks")[0] for check in compared(scheduled, wrong) if not check.passed}
    assert failed == {"2", "4"}
