"""Bytes of SANA-1.5 by depth and scheme, the table of README.md.

python benchmarks/sizes.py                                  (a minute or two; docs/results/sizes.json)

What `sanac quantize --dry-run` says of pipelines of the full shape, written as sparse files: the transformer at each
depth, Gemma-2-2B and the autoencoder. No weights are needed. int8 and int4 are int8-wo and int4-wo with their defaults,
of the transformer and of the text encoder; the autoencoder stays in 16 bits.
"""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
from measure import RESULTS, workplace
from synthetic import SANA_4_8B, write_pipeline

from sanac.core.units import bytes_text

DEPTHS = (60, 40, 30, 20)
SCHEMES = {"int8": "int8-wo", "int4": "int4-wo"}
COMPONENTS = ("--component", "transformer", "--component", "text-encoder")


def sizes(model: Path, scheme: str, work: Path) -> dict[str, dict[str, int]]:
    """Bytes of each component before and after."""
    command = [sys.executable, "-m", "sanac", "quantize", str(model), "--scheme", scheme, *COMPONENTS]
    command += ["--dry-run", "--json", "--workspace", str(work)]
    run = subprocess.run(command, check=True, capture_output=True)
    found: dict[str, dict[str, int]] = json.loads(run.stdout)["sizes"]
    return found


def bytes_of(found: dict[str, dict[str, int]], moment: str) -> dict[str, int]:
    """Bytes of the transformer, and of the pipeline."""
    return {"transformer": found["transformer"][moment], "pipeline": sum(part[moment] for part in found.values())}


@click.command()
def main() -> None:
    """Ask for every depth and scheme, and write the result."""
    result: dict[str, dict[str, object]] = {}
    with workplace(None) as work:
        for blocks in DEPTHS:
            architecture = replace(SANA_4_8B, blocks=blocks)
            parameters = sum(math.prod(shape) for shape in architecture.tensors().values())
            write_pipeline(work / str(blocks), architecture, sparse=True)
            found = {name: sizes(work / str(blocks), scheme, work / "ws") for name, scheme in SCHEMES.items()}
            cells = {"16 bits": bytes_of(found["int8"], "before")}
            cells |= {name: bytes_of(one, "after") for name, one in found.items()}
            result[str(blocks)] = {"parameters": parameters, **cells}
            click.echo(f"{blocks} blocks, {parameters:,} parameters")
            for name, found_bytes in cells.items():
                click.echo(f"  {name}: " + ", ".join(f"{part} {bytes_text(n)}" for part, n in found_bytes.items()))
    (RESULTS / "sizes.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
