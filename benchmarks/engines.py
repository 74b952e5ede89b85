"""What building an engine takes, by depth, at the width of SANA-4.8B in bf16: anonymous and resident memory, time.

python benchmarks/engines.py [--work DIR] [--depth 20 --depth 60]     (writes 28 GB at most, deletes them)
python benchmarks/engines.py --show                                   (table and verdicts only)

sanac: the process that `sanac export --trt --sm 89 --size 1024 --batch 1` builds in. Plain: the parser is given the
file, the engine is built into memory and written from there. An engine that was built is looked at, not run: there is
no GPU in this.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import machine, refuse_if_busy, remove, watched, workplace
from benchmarks.synthetic import SANA_4_8B, write_transformer
from sanac.core.artifact.model import open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.units import bytes_text
from sanac.export.engine_plan import EngineBuild, EngineSettings, engines_of
from sanac.export.plan import ExportSettings, graphs_of

DEPTHS, PLAIN = (20, 60), 20  # plainly built up to this depth: deeper ones don't fit
RESULT = Path("docs/results/engines.json")
COPIES, ROOM = 1.9, 24e9  # targets: anonymous memory by bytes of the engine at 20 blocks, all of it at 60
_BUILDING = [sys.executable, "-P", "-m", "sanac.export.engine_builder"]
_PLAIN = """
import json, sys, tensorrt_rtx as trt
task = json.load(sys.stdin)
log = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(log)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, log)
assert parser.parse_from_file(task["graph"])
config, profile = builder.create_builder_config(), builder.create_optimization_profile()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM89, 0)
for name, shapes in task["shapes"].items():
    profile.set_shape(name, *shapes)
config.add_optimization_profile(profile)
open(task["out"], "wb").write(bytes(builder.build_serialized_network(network, config)))
"""


def engine_of(artifact: Path) -> EngineBuild:
    """What is to be built of an artifact that has its graph."""
    model = open_model(locate(str(artifact)))
    asked = EngineSettings(builder="rtx", capabilities=(89,), batch=(1, 1), size=(1024, 1024))
    return engines_of(model, graphs_of(model, ExportSettings(component=("transformer",))), asked)[0]


def with_graph(folder: Path, blocks: int) -> Path:
    """An artifact of so many blocks with made-up weights, and its graph."""
    source, artifact = folder / "source", folder / "artifact"
    remove(source, artifact)
    write_transformer(source, replace(SANA_4_8B, blocks=blocks), shards=2 if blocks > 30 else 1)
    ws = ["--workspace", str(folder / "ws")]
    for words in (
        ["prune", str(source), "--keep", f"0-{blocks - 1}", "--out", str(artifact), *ws],
        ["export", str(artifact), "--in-place", "--component", "transformer", "--no-verify", *ws],
    ):
        subprocess.run([sys.executable, "-m", "sanac", *words, "-q"], check=True, stdout=subprocess.DEVNULL)
    remove(source)
    return artifact


def built(command: list[str], task: dict[str, Any]) -> dict[str, Any]:
    """One build, measured."""
    run, _ = watched(command, json.dumps(task).encode())
    found = asdict(run) | {"engine": Path(task["out"]).stat().st_size}
    remove(Path(task["out"]))
    return found


def measured(folder: Path, blocks: int) -> dict[str, Any]:
    """One depth."""
    artifact = with_graph(folder, blocks)
    engine = engine_of(artifact)
    task = engine.task(artifact, folder / "built.engine")
    found = {"said": engine.memory, "sanac": built(_BUILDING, task)}
    if blocks <= PLAIN:
        shapes = {
            "hidden_states": [[2, 32, 32, 32]] * 3,
            "encoder_hidden_states": [[2, 1, 2304], [2, 300, 2304], [2, 300, 2304]],
            "encoder_attention_mask": [[2, 1], [2, 300], [2, 300]],
            "timestep": [[2]] * 3,
        }
        found["plain"] = built([sys.executable, "-c", _PLAIN], task | {"shapes": shapes})
    remove(artifact)
    return found


def show(result: dict[str, Any]) -> None:
    """Table and verdicts."""
    click.echo(f"{result['machine']}. {result['busy']}\n")
    click.echo("| blocks | way | engine | s | anonymous | of the engine | resident | said |\n" + "|---" * 8 + "|")
    for blocks, entry in result["depths"].items():
        for way in ("sanac", "plain"):
            if way not in entry:
                continue
            run = entry[way]
            sizes = [bytes_text(run[name]) for name in ("engine", "anonymous", "resident")]
            said = bytes_text(entry["said"]) if way == "sanac" else ""
            ratio = f"{run['anonymous'] / run['engine']:.3f}"
            click.echo(
                f"| {blocks} | {way} | {sizes[0]} | {run['seconds']:.0f} | {sizes[1]} | {ratio} | {sizes[2]} | {said} |"
            )
    few, many = result["depths"].get("20"), result["depths"].get("60")
    if few:
        ratio = few["sanac"]["anonymous"] / few["sanac"]["engine"]
        click.echo(
            f"\n20 blocks, at most {COPIES} of the engine: {ratio:.3f}: {'met' if ratio <= COPIES else 'NOT MET'}"
        )
    if many:
        text = bytes_text(many["sanac"]["anonymous"])
        click.echo(
            f"60 blocks within {bytes_text(ROOM)}: {text}: {'met' if many['sanac']['anonymous'] < ROOM else 'NOT MET'}"
        )


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="A folder with 28 GB of room.")
@click.option("--depth", "depths", multiple=True, type=int, default=DEPTHS, show_default=True)
@click.option("--show", "only_show", is_flag=True, help="Measure nothing.")
def main(work: Path | None, depths: tuple[int, ...], *, only_show: bool) -> None:
    """Measure, keep what was measured, print it."""
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {"depths": {}}
    if not only_show:
        result |= {"machine": machine(), "busy": refuse_if_busy()}
        with workplace(work) as folder:
            for blocks in depths:
                click.echo(f"{blocks} blocks, {bytes_text(shutil.disk_usage(folder).free)} of disk free", err=True)
                result["depths"][str(blocks)] = measured(folder, blocks)
                RESULT.write_text(json.dumps(result, indent=1) + "\n")
    show(result)


if __name__ == "__main__":
    main()
