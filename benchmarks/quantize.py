"""Quantizing: how fast and in how much memory at the 4.8B shape, and what it costs sanac:tiny in quality.

python benchmarks/quantize.py --part speed [--work DIR] [--rounds 3]     (writes 9.4 GB, deletes them)
python benchmarks/quantize.py --part bytes                               (of the 4.8B shape, by scheme: a moment)
python benchmarks/quantize.py --part six                                 (makes the table's second model anew)
python benchmarks/quantize.py --part table [--model 12]                  (two hours each; finished rows are kept)
python benchmarks/quantize.py --part budget                              (three budgets beside uniform schemes)
python benchmarks/quantize.py --part show                                (tables, verdicts, charts only)

The table's second model, in benchmarks/six-blocks, is sanac:tiny pruned to six blocks by search, compensated, and
recovered in a hundred steps; its third is sanac:tiny with outliers planted, the same function (benchmarks/outliers.py).
The second's rows with quantized activations are in a table of their own (--model 6-activations --images 512).
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.judged import answers_of, scores_of
from benchmarks.measure import interleaved, machine, refuse_if_busy, remove, report, workplace
from benchmarks.outliers import write_outliers
from benchmarks.quantize_chart import chart
from benchmarks.synthetic import write_transformer
from sanac.core import json_files
from sanac.core.artifact.model import Model, open_model
from sanac.core.checkpoint.locate import locate
from sanac.core.progress import NULL_REPORTER
from sanac.core.units import bytes_text
from sanac.judge.intervals import Interval, paired_difference
from sanac.nn.calibration.job import Calibration, calibration
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.calibration.states import CalibrationStates
from sanac.nn.generation import GenerationSettings
from sanac.nn.streaming import Blocks
from sanac.runtime.pipeline import open_generator
from sanac.shapes.prompts import suite
from sanac.verify.shapes_suite import Evaluation, evaluate

SIX = Path("benchmarks/six-blocks")  # training gives other bits on another kind of machine: tables are of these
UNCHANGED = ("scheduler", "text_encoder", "tokenizer", "vae")  # sanac:tiny's own
RESULTS = Path("docs/results")
MODELS = {
    "12": "sanac:tiny",
    "6": "6 blocks, recovered",
    "6-activations": "6 blocks, recovered, schemes with activations",
    "outliers": "sanac:tiny with outliers",
}
TORCHAO = """
import sys, torch
from diffusers import SanaTransformer2DModel, TorchAoConfig
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerAxis
scheme = IntxWeightOnlyConfig(torch.int8, granularity=PerAxis(0))
high = ["patch_embed", "time_embed", "caption_projection", "proj_out", "attn2.to_k", "attn2.to_v"]
config = TorchAoConfig(scheme, modules_to_not_convert=high)
model = SanaTransformer2DModel.from_pretrained(sys.argv[1], quantization_config=config, torch_dtype=torch.bfloat16)
points = lambda module, name: isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1) and "ff." in name
quantize_(model, scheme, filter_fn=points)
model.save_pretrained(sys.argv[2])
"""
FAKE = "finetune {} --data shapes --steps 100 --fake-quant int4-wo"
ROWS: dict[str, tuple[str, ...]] = {  # name -> what is done to a model, command after command; {} is the one before
    "as it was": (),
    "int8-wo": ("quantize {} --scheme int8-wo",),
    "int4-wo, nearest": ("quantize {} --scheme int4-wo --rounding nearest",),
    "int4-wo, search": ("quantize {} --scheme int4-wo",),
    "int4-wo, gptq": ("quantize {} --scheme int4-wo --rounding gptq",),
    "int4-wo, search, trained for": (FAKE, "quantize {} --scheme int4-wo"),
    "int4-wo, gptq, trained for": (FAKE, "quantize {} --scheme int4-wo --rounding gptq"),
    "text encoder int8-wo": ("quantize {} --scheme int8-wo --component text-encoder",),
    "text encoder int4-wo": ("quantize {} --scheme int4-wo --component text-encoder",),
    "fp8-wo": ("quantize {} --scheme fp8-wo",),
    "int8-wo, with kv": ("quantize {} --scheme int8-wo --include kv",),
    "int4-wo, gptq, with kv": ("quantize {} --scheme int4-wo --rounding gptq --include kv",),
    "int4-wo, gptq, block 128": ("quantize {} --scheme int4-wo --rounding gptq --group-size 128",),
    "autoencoder int8-wo": ("quantize {} --scheme int8-wo --component vae",),
    "autoencoder int4-wo": ("quantize {} --scheme int4-wo --component vae",),
    "int8": ("quantize {} --scheme int8",),
    "int8, unsmoothed": ("quantize {} --scheme int8 --smoothing none",),
    "int8, all blocks": ("quantize {} --scheme int8 --include ends",),
    "int8-dynamic": ("quantize {} --scheme int8-dynamic",),
    "int8-dynamic, unsmoothed": ("quantize {} --scheme int8-dynamic --smoothing none",),
    "fp8": ("quantize {} --scheme fp8",),
    "fp8, all blocks": ("quantize {} --scheme fp8 --include ends",),
    "fp8-dynamic": ("quantize {} --scheme fp8-dynamic",),
}
PLANTED = ("as it was", "int8, unsmoothed", "int8", "int8-dynamic, unsmoothed", "int8-dynamic", "fp8")
SHALLOW = ("as it was", "int8", "int8, unsmoothed", "int8-dynamic", "fp8", "fp8-dynamic")
ASKED = {"outliers": PLANTED, "6-activations": SHALLOW}  # of other models all rows
BEST = ("int4-wo, nearest", "int4-wo, search", "int4-wo, gptq")
LOSSES = {"int8-wo": 0.01, "int8": 0.02, "int8-dynamic": 0.02, "fp8": 0.02, "fp8-dynamic": 0.02}  # targets
BEST_LOSES, SMOOTHED_LOSES, COLLAPSED = 0.03, 0.05, 0.25
BUDGETS = ("--scheme int4-wo", "--scheme int8-wo")  # whose bytes are budgets, and the middle between


def speed(work: Path | None, rounds: int) -> None:
    """Streamed, beside `cp` of what goes in and comes out, and beside torchao in memory."""
    warning = refuse_if_busy()
    with workplace(work) as folder:
        source, out, copy = (folder / name for name in ("source", "out", "copy"))
        click.echo(f"writing a synthetic 4.8B checkpoint to {source} ...", err=True)
        size = write_transformer(source)
        quantize = [sys.executable, "-m", "sanac", "quantize", str(source), "--workspace", str(folder / "ws")]
        schemes = {
            "int8-wo": ["--scheme", "int8-wo"],
            "int4-wo, nearest": ["--scheme", "int4-wo", "--rounding", "nearest"],
        }
        commands: dict[str, list[str]] = {}
        for name, options in schemes.items():
            kept = folder / name.split(",")[0]
            subprocess.run([*quantize, *options, "--out", str(kept)], check=True, capture_output=True)
            commands[f"cp of both, {name}"] = ["cp", "-r", str(source), str(kept), str(copy)]
            commands[name] = [*quantize, *options, "--out", str(out)]
        commands["torchao, in memory, int8"] = [sys.executable, "-c", TORCHAO, str(source), str(out)]

        def clean() -> None:
            remove(copy, out)
            copy.mkdir()

        clean()
        runs = interleaved(commands, rounds, clean)
        bases = tuple(name for name in commands if name.startswith("cp"))
        report("quantize-speed", f"{bytes_text(size)} in", runs, bases, warning)


def sizes() -> None:
    """Bytes of the 4.8B transformer by scheme, as a dry run over a sparse file of its shape says."""
    options = {
        "int8-wo": ("int8-wo", 0.52),
        "int8-wo, with kv": ("int8-wo --include kv", 0.52),
        "int4-wo": ("int4-wo", 0.30),
        "int4-wo, with kv": ("int4-wo --include kv", 0.30),
        "fp8-wo": ("fp8-wo", None),
    }
    with workplace(None) as folder:
        write_transformer(folder / "source", sparse=True)
        for name, (scheme, most) in options.items():
            command = ["quantize", str(folder / "source"), "--scheme", *scheme.split(), "--dry-run", "--json"]
            where = ["--workspace", str(folder / "ws")]
            run = subprocess.run([sys.executable, "-m", "sanac", *command, *where], check=True, capture_output=True)
            found = json.loads(run.stdout)["sizes"]["transformer"]
            part = found["after"] / found["before"]
            met = "" if most is None else f"; at most {most}: {'met' if part <= most else 'NOT MET'}"
            click.echo(f"{name}: {share(found['after'], found['before'])}, {part:.3f} of bf16{met}")


@dataclass
class Bench:
    """One model, and the rows that are made of it."""

    source: Path | str
    work: Path
    images: int

    @cached_property
    def model(self) -> Model:
        """As it was."""
        return open_model(locate(str(self.source)))

    @cached_property
    def calibration(self) -> Calibration:
        """Tuning prompts, where this model's trajectories pass."""
        prompts = tuple(prompt.text for prompt in suite("tune", 24))
        found = calibration(self.model, CalibrationSettings(num_prompts=len(prompts), seed=77), every=2)
        return replace(found, inputs=replace(found.inputs, prompts=prompts))

    @cached_property
    def states(self) -> CalibrationStates:
        """Those states, and the velocity there."""
        with torch.no_grad():
            return self.calibration.sample()

    def made(self, commands: tuple[str, ...]) -> Model:
        """What the commands leave; what comes before the last is kept, as rows share it."""
        found = str(self.source)
        for command in commands:
            out = self.work / json_files.key_of([command, found])[:8]
            if out.is_dir() and command != commands[-1]:
                found = str(out)
                continue
            asked = command.format(shlex.quote(found))
            sanac("--out", str(out), "--force", "--workspace", str(self.work / "ws"), verb=asked)
            found = str(out)
        return open_model(locate(found))

    def row(self, name: str) -> dict[str, Any]:
        """Made, judged on test prompts, and beside the pictures of the model as it was."""
        model = self.made(ROWS[name])
        found = self.painted(model)
        sizes = {part.name: part.weights.size for part in model.components if part.weights}
        return {
            "bytes": sizes,
            "velocity_error": self.velocity_error(model) if ROWS[name] else 0.0,
            "psnr": psnr(found.pictures, self.pictures) if ROWS[name] else None,
            "answers": answers_of(found),
            **found.to_json(),
        }

    @cached_property
    def pictures(self) -> NDArray[np.uint8]:
        """Those of the model as it was."""
        kept = self.work / "pictures.npy"
        if not kept.is_file():
            np.save(kept, self.painted(self.model).pictures)
        return np.load(kept)

    def painted(self, model: Model) -> Evaluation:
        """Test prompts, painted and judged."""
        return evaluate(
            open_generator(model, "cpu"), self.images, GenerationSettings(batch=32), 0, "test", NULL_REPORTER
        )

    def velocity_error(self, model: Model) -> float:
        """Relative, of the guided velocity; with captions as this model's text encoder gives them."""
        blocks = Blocks(model, torch.device("cpu"), torch.float32, resident=True)
        kept = tuple(range(len(blocks)))
        captions = replace(self.calibration.inputs, model=model).captions(blocks.device).to(blocks.device, blocks.dtype)
        with torch.no_grad():
            mine = replace(self.states, blocks=blocks, outside=blocks.outside(), captions=captions)
            return float(mine.errors([kept])[kept].mean())


def sanac(*options: str, verb: str) -> None:
    """Run a command as its user would."""
    subprocess.run([sys.executable, "-m", "sanac", *shlex.split(verb), *options], check=True, capture_output=True)


def psnr(found: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> float:
    """Mean over pictures of the peak signal to noise ratio, dB; pictures that are equal count as 60."""
    errors = np.square(found.astype(np.float32) - wanted).mean(axis=(1, 2, 3))
    return float(np.minimum(60.0, 10 * np.log10(255**2 / np.maximum(errors, 1e-9))).mean())


def six(work: Path) -> None:
    """Make the second model anew: what is not sanac:tiny's own goes into the repository."""
    pruned, out = work / "pruned", work / "recovered"
    workspace = ("--workspace", str(work / "ws"), "--force")
    sanac("--out", str(pruned), *workspace, verb="prune sanac:tiny --target-blocks 6 --select search --compensate")
    sanac("--out", str(out), *workspace, verb=f"finetune {shlex.quote(str(pruned))} --data shapes --steps 100")
    shutil.rmtree(SIX, ignore_errors=True)
    shutil.copytree(out, SIX, ignore=shutil.ignore_patterns(*UNCHANGED, "origin.json"))


def small(work: Path) -> Path:
    """sanac:tiny pruned to six blocks and recovered, as it lies in the repository."""
    out = work / "recovered"
    if not out.is_dir():
        shutil.copytree(SIX, out)
        for part in UNCHANGED:
            shutil.copytree(locate("sanac:tiny").path / part, out / part)
    return out


def source_of(model: str, work: Path) -> Path | str:
    """The model that a table's rows are made of."""
    if model == "12":
        return "sanac:tiny"
    if model.startswith("6"):
        return small(work)
    if not (work / "planted").is_dir():
        write_outliers(locate("sanac:tiny").path, work / "planted")
    return work / "planted"


def budget(work: Path) -> None:
    """Three budgets: what is chosen beside every uniform scheme that fits, on prompts that no choice saw."""
    work.mkdir(parents=True, exist_ok=True)
    bench, out = Bench("sanac:tiny", work, 0), work / "budget"

    def made(how: str) -> tuple[int, float]:
        sanac("--out", str(out), "--force", "--workspace", str(work / "ws"), verb=f"quantize sanac:tiny {how}")
        model = open_model(locate(str(out)))
        return model.weights.size, bench.velocity_error(model)

    uniform = {how: made(how) for how in (*BUDGETS, "--scheme int4-wo --rounding nearest", "--scheme fp8-wo")}
    least, most = (uniform[how][0] for how in BUDGETS)
    titles = ("budget", "chosen", "velocity SQNR", "best uniform scheme", "its velocity SQNR", "")
    click.echo(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for limit in (least, (least + most) // 2, most):
        size, error = made(f"--max-bytes {limit}")
        fitting = {how: error for how, (size, error) in uniform.items() if size <= limit}
        best = min(fitting, key=lambda how: fitting[how])
        cells = [bytes_text(limit), bytes_text(size), decibels(error), best.removeprefix("--scheme ")]
        met = "met" if error <= fitting[best] else "NOT MET"
        click.echo(f"| {' | '.join(cells)} | {decibels(fitting[best])} | {met} |")


def journal_of(model: str) -> Path:
    """Where a model's rows are kept."""
    return RESULTS / f"quantize-{model}.json"


def table(model: str, work: Path, images: int, rows: tuple[str, ...]) -> None:
    """Compute what is missing."""
    place, path = work / model, journal_of(model)
    place.mkdir(parents=True, exist_ok=True)
    bench = Bench(source_of(model, place), place, images)
    identity = bench.model.identity(full_hash=True)
    journal = json.loads(path.read_text()) if path.is_file() else {}
    if journal.get("identity") != identity:
        journal = {"identity": identity, "machine": machine(), "rows": {}}
    for row in rows or ASKED.get(model, tuple(ROWS)):
        if row not in journal["rows"]:
            click.echo(f"{MODELS[model]}: {row}", err=True)
            journal["rows"][row] = bench.row(row)
            path.write_text(json.dumps(journal) + "\n")


def lost(rows: Mapping[str, Mapping[str, Any]], name: str) -> Interval:
    """Score as it was minus this row's, paired by prompt."""
    return paired_difference(scores_of(rows["as it was"]), scores_of(rows[name])).interval


def show(name: str, entry: Mapping[str, Any]) -> None:
    """The table and the verdicts of one model."""
    rows = entry["rows"]
    click.echo(f"\n{name} ({entry['machine']}), {rows['as it was']['pictures']} test prompts\n")
    titles = ("", "score", "lost", "held out", "velocity SQNR", "PSNR", "transformer", "pipeline")
    click.echo(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for row, found in ((row, rows[row]) for row in ROWS if row in rows):
        plain = not ROWS[row]
        cells = [
            row,
            f"{found['overall']['value']:.3f}",
            "" if plain else str(lost(rows, row)),
            f"{found['held_out']['value']:.3f}",
            "" if plain else decibels(found["velocity_error"]),
            "" if plain else f"{found['psnr']:.1f} dB",
            share(found["bytes"]["transformer"], rows["as it was"]["bytes"]["transformer"]),
            share(sum(found["bytes"].values()), sum(rows["as it was"]["bytes"].values())),
        ]
        click.echo(f"| {' | '.join(cells)} |")
    click.echo()
    planted = name == MODELS["outliers"]
    for row, most in LOSSES.items():
        if row in rows:
            verdict(f"{row} loses", lost(rows, row), SMOOTHED_LOSES if planted else most)
    if planted and "int8, unsmoothed" in rows:
        found = lost(rows, "int8, unsmoothed")
        click.echo(f"unsmoothed int8 loses {found}: {'collapsed' if found.low > COLLAPSED else 'NOT COLLAPSED'}")
    there = [row for row in BEST if row in rows]
    if there:
        best = min(there, key=lambda row: rows[row]["velocity_error"])  # chosen on tuning prompts
        verdict(f"{best} loses", lost(rows, best), BEST_LOSES)
    for how in ("search", "gptq"):
        before, after = f"int4-wo, {how}", f"int4-wo, {how}, trained for"
        if before in rows and after in rows:
            regained(rows, before, after)


def decibels(error: float) -> str:
    """A relative error as a ratio of signal to noise."""
    return f"{-10 * np.log10(error):.1f} dB" if error else "exact"


def share(after: int, before: int) -> str:
    """'1.63 MB (43%)'."""
    return f"{bytes_text(after)} ({after / before:.0%})"


def verdict(what: str, found: Interval, most: float) -> None:
    """Met when the interval's far end is."""
    click.echo(f"{what} {found}; at most {most}: {'met' if found.high <= most else 'NOT MET'}")


def regained(rows: Mapping[str, Mapping[str, Any]], before: str, after: str) -> None:
    """Half of what was lost: of the score, and of the velocity's error."""
    plain, first, then = (scores_of(rows[name]) for name in ("as it was", before, after))
    half = [replace(a, right=(a.right + b.right) / 2) for a, b in zip(plain, first, strict=True)]
    beyond = paired_difference(then, half).interval
    met = "met" if beyond.low >= 0 else "NOT MET"
    click.echo(f"{after}: beyond half of what {before} lost of the score: {beyond}: {met}")
    errors = [rows[name]["velocity_error"] for name in (before, after)]
    met = "met" if errors[1] <= errors[0] / 2 else "NOT MET"
    click.echo(f"    its velocity error: {errors[0]:.4f} -> {errors[1]:.4f}, half of it: {met}")


@click.command()
@click.option(
    "--part", type=click.Choice(["speed", "bytes", "six", "table", "budget", "show"]), default="show", show_default=True
)
@click.option("--model", "asked", multiple=True, type=click.Choice(list(MODELS)), help="Blocks of the table's model.")
@click.option("--row", "rows", multiple=True, type=click.Choice(list(ROWS)), help="Of the table, only these.")
@click.option("--images", default=2048, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), help="Where models lie.  [default: build/quantize]")
def main(part: str, asked: tuple[str, ...], rows: tuple[str, ...], images: int, rounds: int, work: Path | None) -> None:
    """Compute, print, draw."""
    if part in {"speed", "bytes"}:
        speed(work, rounds) if part == "speed" else sizes()
        return
    torch.set_num_threads(1)
    if part == "six":
        six(work or Path("build/quantize"))
        return
    if part == "budget":
        budget((work or Path("build/quantize")) / "12")
        return
    if part == "table":
        for model in asked or tuple(MODELS):
            table(model, work or Path("build/quantize"), images, rows)
    paths = {name: journal_of(model) for model, name in MODELS.items()}
    models = {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}
    for name, entry in models.items():
        show(name, entry)
    chart({name: entry for name, entry in models.items() if name != MODELS["outliers"]}, tuple(ROWS))


if __name__ == "__main__":
    main()
