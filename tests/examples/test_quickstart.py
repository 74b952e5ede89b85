"""The quickstart notebook, run cell by cell as a reader would; a second run of it is cached."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
RUN = """
import json, sys
cells = json.loads(open(sys.argv[1]).read())["cells"]
scope = {}
for cell in cells:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), scope)
small = scope["small"]
print(json.dumps({"cached": small.cached, "out": small.path, "passed": scope["report"].passed,
                  "verified": scope["report"].status, "size": scope["image"].size, "from": scope["model"].size,
                  "to": small.size}))
"""


def run(folder: Path) -> tuple[dict[str, object], float]:
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(NOTEBOOK)], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - start


def test_the_notebook_runs_and_is_cached(tmp_path: Path) -> None:
    first, long = run(tmp_path)
    assert (first["cached"], first["passed"], first["verified"]) == (False, True, "ok")
    assert first["to"] < 0.75 * first["from"], "half the blocks, in eight bits; text encoder and autoencoder stay"
    assert (Path(tmp_path, str(first["out"])) / "transformer" / "model.onnx").is_file()
    assert list(Path(tmp_path, str(first["out"])).glob("transformer/*.engine"))
    again, short = run(tmp_path)
    assert (again["cached"], again["verified"], again["out"]) == (True, "cached", first["out"])
    assert short < 0.5 * long
