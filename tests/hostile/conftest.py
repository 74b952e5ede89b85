"""Canaries, an artifact with everything in it, and an unfinished one."""

import shutil
from pathlib import Path

import pytest

from sanac.cli.app import run
from sanac.core.artifact.manifest import read_manifest
from sanac.core.artifact.staging import StagingArea
from tests.conftest import Sanac, Shared, sanac_must
from tests.hostile.canaries import Canaries

CUT = ("prune", "sanac:tiny", "--keep", "0-1", "--out")


@pytest.fixture
def canaries(tmp_path: Path) -> Canaries:
    home = tmp_path / "outside"
    home.mkdir()
    return Canaries(home)


@pytest.fixture(scope="session")
def exported(shared: Shared) -> Path:
    """Two blocks of sanac:tiny with the transformer's graph, a comparison and measurements."""

    def making(out: Path) -> None:
        sanac_must(*CUT, out)
        sanac_must("export", out, "--in-place", "--component", "transformer", "--precision", "fp32", "--no-verify")
        assert run(["evaluate", str(out), "--suite", "shapes", "--images", "12", "--steps", "1"]) == 0

    return shared("hostile-exported", making)


@pytest.fixture
def artifact(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "artifact"))


@pytest.fixture
def unfinished(sanac: Sanac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a run leaves that is stopped when all files are finished, just before they are sealed."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StagingArea, "seal", stopped)
        assert sanac(*CUT, "out").code == 130
    assert read_manifest(tmp_path / "out.partial") is None
    return tmp_path / "out.partial"
