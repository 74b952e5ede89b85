"""The wheel: it holds every file of the package, and works where the repository isn't."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
NEEDED = ("pyproject.toml", "README.md", "LICENSE", "sanac")


def package_files() -> list[str]:
    """Every file of the package that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z", *NEEDED], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the repository: a build leaves files beside the sources."""
    pytest.importorskip("setuptools", minversion="77")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in package_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (found,) = out.glob("sanac-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the wheel's content, as pip would unpack it."""
    folder = tmp_path_factory.mktemp("installed")
    with ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def sanac(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the wheel's `sanac` outside of the repository."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "sanac", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_every_file_of_the_package_is_in_it(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        for name in sorted(held):
            assert archive.read(name) == (ROOT / name).read_bytes(), name
    assert held == {name for name in package_files() if name.startswith("sanac/")}


def test_extras_and_command_are_declared(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        about = archive.read(metadata).decode()
        commands = archive.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert all(f"Provides-Extra: {extra}\n" in about for extra in ("cpu", "gpu", "rtx", "rtx-build", "train"))
    assert "sanac = sanac.cli:main" in commands


def test_it_works_outside_of_the_repository(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [sys.executable, "-c", "import sanac; print(sanac.__file__)"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.strip() == str(installed / "sanac" / "__init__.py")
    assert "demo" in sanac(installed, tmp_path, "recipes").stdout
    assert sanac(installed, tmp_path, "run", "demo", "--dry-run").returncode == 0
    pruned = sanac(installed, tmp_path, "prune", "sanac:tiny", "--keep", "0-5", "--out", "six")
    assert (pruned.returncode, pruned.stdout.splitlines()[-1]) == (
        0,
        'load it with SanaPipeline.from_pretrained("six")',
    )
    drawn = sanac(installed, tmp_path, "generate", "six", "a red circle", "--steps", "2")
    assert (drawn.returncode, (tmp_path / drawn.stdout.strip()).is_file()) == (0, True)
