"""What is in the repository for pipelines: the action's own step as bash runs it, and files that say what is there."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
RECIPE = """\
model = "sanac:tiny"
[prune]
keep = "0-3"
[[gate]]
metric = "size/bytes"
most = LIMIT
"""


def step(name: str) -> str:
    """The words of one of the action's steps."""
    steps = yaml.safe_load((ROOT / "action.yml").read_text())["runs"]["steps"]
    return next(one["run"] for one in steps if one.get("name") == name)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose workspace is kept from one run to the next, as the action keeps it."""
    return tmp_path_factory.mktemp("checkout")


@pytest.mark.parametrize(("limit", "code"), [("1e9", 0), ("1", 5)])
def test_the_action_s_step(checkout: Path, limit: str, code: int) -> None:
    """As a runner does: bash, that stops at the first error, and the files that GitHub gives a step."""
    for file in checkout.iterdir():
        if file.name != "out":
            file.unlink()
    (checkout / "r.toml").write_text(RECIPE.replace("LIMIT", limit))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"RECIPE": "r.toml", "MODEL": "", "WORKSPACE": "out", "JUNIT": "out/gates.xml", "GITHUB_ACTIONS": "true"}
    files = {"GITHUB_OUTPUT": str(checkout / "output"), "GITHUB_STEP_SUMMARY": str(checkout / "page.md")}
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step("run")]
    environment = os.environ | given | files | {"PATH": path}
    ran = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == code, ran.stderr
    (line,) = (checkout / "output").read_text().splitlines()
    place = Path(line.partition("artifact=")[2])
    assert (place / "sanac.json").is_file()
    assert ET.parse(checkout / "out" / "gates.xml").getroot().get("failures") == ("1" if code else "0")
    assert ("::error title=size/bytes" in ran.stderr) == bool(code)
    assert ("❌" in (checkout / "page.md").read_text()) == bool(code)
    assert json.loads((checkout / "sanac-run.json").read_text())["passed"] == (not code)
    there = {entry.name for entry in checkout.iterdir()}
    assert there == {"r.toml", "out", "output", "page.md", "sanac-run.json"}, "nothing outside of the workspace"


def test_the_examples_fit_the_action() -> None:
    inputs = yaml.safe_load((ROOT / "action.yml").read_text())["inputs"]
    job = yaml.safe_load((ROOT / "examples" / "pipelines" / "github.yml").read_text())["jobs"]["model"]
    (used,) = (one for one in job["steps"] if one.get("id") == "sanac")
    assert used["with"].keys() <= inputs.keys()
    stage = yaml.safe_load((ROOT / "examples" / "pipelines" / "dvc.yaml").read_text())["stages"]["model"]
    assert stage["cmd"].startswith("sanac run recipe.toml")
    spec = yaml.safe_load((ROOT / "examples" / "pipelines" / "job.yaml").read_text())["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["args"][0] == "run"
    ends = {code for rule in spec["podFailurePolicy"]["rules"] for code in rule["onExitCodes"]["values"]}
    assert ends == {2, 3, 5, 75}


def test_what_the_image_is_made_of_is_there() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    assert copied
    assert all((ROOT / word).exists() for word in copied)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == set(copied)
