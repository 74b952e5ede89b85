"""What exporting takes by depth, at the width of SANA-4.8B, beside plain `torch.onnx.export` of the stock model.

python benchmarks/export.py [--work DIR] [--rounds 3]     (writes 28 GB at most, deletes them; half an hour)
python benchmarks/export.py --show                       (table, verdicts and chart only)

sanac: `sanac export ARTIFACT --in-place --component transformer --no-verify`, for any size. Plain: the stock class
loaded in bf16, `torch.onnx.export(..., dynamo=True)` at 1024 px and a batch of two, as it fails where sizes are left
open, and the result saved.
"""

import json
import statistics
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import machine, measure, median, refuse_if_busy, remove, workplace
from benchmarks.synthetic import SANA_4_8B, write_transformer
from sanac.core.units import bytes_text

mpl.use("Agg")

DEPTHS = (60, 40, 20, 10, 2)
RESULT, PICTURE = Path("docs/results/export.json"), Path("docs/pictures/export.png")
SECONDS, MEMORY = 30.0, 1.5e9  # targets, at 60 blocks
_SANAC = [sys.executable, "-m", "sanac"]
_PLAIN = """
import sys, torch
from sanac.nn.silence_libraries import silent

with silent():  # they warn while they load
    from diffusers import SanaTransformer2DModel
source, out = sys.argv[1:]
model = SanaTransformer2DModel.from_pretrained(source, torch_dtype=torch.bfloat16).eval()
half = dict(dtype=torch.bfloat16)
given = {
    "hidden_states": torch.zeros(2, 32, 32, 32, **half),
    "encoder_hidden_states": torch.zeros(2, 300, 2304, **half),
    "timestep": torch.zeros(2),
    "encoder_attention_mask": torch.ones(2, 300, **half),
}
with torch.no_grad():
    program = torch.onnx.export(model, (), kwargs=given, dynamo=True, opset_version=22, verbose=False)
    program.save(out, external_data=True)
"""


def bytes_in(folder: Path) -> int:
    """What lies in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def ours(folder: Path, source: Path, blocks: int, rounds: int) -> dict[str, Any]:
    """An artifact of the first blocks, exported in place so many times."""
    artifact, ws = folder / "artifact", ["--workspace", str(folder / "ws")]
    cut = [*_SANAC, "prune", str(source), "--keep", f"0-{blocks - 1}", "--out", str(artifact), *ws]
    subprocess.run(cut, check=True, capture_output=True)
    before = bytes_in(artifact)
    export = [*_SANAC, "export", str(artifact), "--in-place", "--component", "transformer", "--no-verify", "--force"]
    runs = [measure([*export, *ws]) for _ in range(rounds)]
    written = bytes_in(artifact) - before
    remove(artifact)
    return {"all_seconds": [run.seconds for run in runs], **asdict(median(runs)), "written": written}


def plain(folder: Path, source: Path, blocks: int) -> dict[str, Any]:
    """The same blocks, the stock way, once."""
    cut, out = folder / "cut", folder / "plain"
    if blocks < SANA_4_8B.blocks:
        write_transformer(cut, replace(SANA_4_8B, blocks=blocks), shards=1)
    out.mkdir()
    run = measure([sys.executable, "-c", _PLAIN, str(cut if cut.exists() else source), str(out / "model.onnx")])
    written = bytes_in(out)
    remove(cut, out)
    return {**asdict(run), "written": written}


def table(found: dict[str, Any]) -> None:
    """A row per depth, and the targets."""
    click.echo(f"{found['machine']}; width 2240, bf16. {found['warning']}\n")
    click.echo("| blocks | sanac, s | peak | written | plain, s | peak | written |\n|" + "---|" * 7)
    for blocks, cell in sorted(found["depths"].items(), key=lambda item: -int(item[0])):
        sides = (
            f"{side['seconds']:.1f} | {bytes_text(side['resident'])} | {bytes_text(side['written'])}"
            for side in (cell["sanac"], cell["plain"])
        )
        click.echo(f"| {blocks} | {' | '.join(sides)} |")
    deepest = found["depths"][str(max(map(int, found["depths"])))]
    ours, theirs = deepest["sanac"], deepest["plain"]
    seconds, peak = statistics.median(ours["all_seconds"]), ours["resident"]
    click.echo(
        f"\ntime: {seconds:.1f} s, {theirs['seconds'] / seconds:.1f} times faster than plain; under {SECONDS:g} s: ",
        nl=False,
    )
    click.echo("met" if seconds < SECONDS else "NOT MET")
    click.echo(
        f"memory: {bytes_text(peak)} resident; under {bytes_text(MEMORY)}: {'met' if peak < MEMORY else 'NOT MET'}"
    )


def chart(found: dict[str, Any]) -> None:
    """Time and memory by depth."""
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    depths = sorted(map(int, found["depths"]))
    for side, colour in (("plain", "C1"), ("sanac", "C0")):
        cells = [found["depths"][str(blocks)][side] for blocks in depths]
        label = "torch.onnx.export" if side == "plain" else "sanac export --in-place"
        panels[0].plot(depths, [cell["seconds"] for cell in cells], color=colour, marker="o", label=label)
        panels[1].plot(depths, [cell["resident"] / 1e9 for cell in cells], color=colour, marker="o", label=label)
    for axes, title in zip(panels, ("seconds", "peak, GB resident"), strict=True):
        axes.set(title=title, xlabel="blocks of the 4.8B's width", ylim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.savefig(PICTURE, dpi=110)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), help="Where 28 GB go.  [default: a temporary folder]")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1), help="Of sanac's; plain runs once.")
@click.option("--show", is_flag=True, help="Compute nothing: print what is there.")
def main(work: Path | None, rounds: int, *, show: bool) -> None:
    """Write docs/results/export.json and the chart, print the table, delete the checkpoint."""
    if not show:
        with workplace(work) as folder:
            warning, source, depths = refuse_if_busy(), folder / "source", {}
            click.echo("writing a synthetic 4.8B checkpoint ...", err=True)
            write_transformer(source)
            for blocks in DEPTHS:
                click.echo(f"{blocks} blocks ...", err=True)
                there = ours(folder, source, blocks, rounds)
                depths[str(blocks)] = {"sanac": there, "plain": plain(folder, source, blocks)}
        RESULT.write_text(json.dumps({"machine": machine(), "warning": warning, "depths": depths}, indent=2) + "\n")
    found = json.loads(RESULT.read_text())
    table(found)
    chart(found)


if __name__ == "__main__":
    main()
