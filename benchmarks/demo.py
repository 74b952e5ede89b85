"""What `sanac run demo` ends with: docs/results/demo.json, which the README shows.

python benchmarks/demo.py             (three minutes on two cores; times are not kept)
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import machine

RESULT = Path("docs/results/demo.json")


def kept(printed: Mapping[str, Any]) -> dict[str, Any]:
    """Of what the recipe printed as JSON: bytes, scores and checks."""
    variants = [{name: variant[name] for name in ("variant", "bytes", "score")} for variant in printed["variants"]]
    return {"machine": machine(), "source": printed["source"], "variants": variants, "checks": printed["checks"]}


def main() -> None:
    """Run the recipe in a workspace of its own and keep its outcome."""
    with TemporaryDirectory() as work:
        command = [sys.executable, "-m", "sanac", "run", "demo", "--json", "--workspace", work]
        run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    RESULT.write_text(json.dumps(kept(json.loads(run.stdout)), indent=1) + "\n")


if __name__ == "__main__":
    main()
