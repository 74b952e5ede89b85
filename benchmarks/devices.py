"""What each verb chooses for the 4.8B model at 1024 px on devices that aren't here, and the memory and time foreseen.

python benchmarks/devices.py               (half a minute; docs/results/devices.json, the tables in docs/devices.md)

The planner is the verbs' own: the rates of the devices are the makers', of which SANA gets 30 % (sanac/core/devices.py
says why). Text encoding, reading the checkpoint from a slow disk and the first start of a GPU are not counted.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from measure import workplace
from synthetic import SANA_4_8B, write_transformer

from sanac.core.artifact.model import Model, open_model
from sanac.core.artifact.plan import keep_blocks
from sanac.core.checkpoint.locate import locate
from sanac.core.confined import ConfinedPath
from sanac.core.devices import parse_device
from sanac.core.errors import MissingResource
from sanac.core.progress import NULL_REPORTER
from sanac.core.units import bytes_text, duration_text
from sanac.core.write.job import WriteOptions, plan_artifact
from sanac.finetune.plan import FinetunePlan, resolve_finetune
from sanac.finetune.settings import FinetuneSettings
from sanac.nn.calibration.settings import CalibrationSettings
from sanac.nn.device import free_memory, planning_for
from sanac.nn.generation_memory import image_memory, images_that_fit, weights_memory
from sanac.nn.guidance import branches_of, usual_steps
from sanac.nn.pipeline_config import forward_seconds, native
from sanac.prune.repair_job import RepairJob, repair_states
from sanac.prune.scoring import plan_scoring
from sanac.prune.search_job import plan_search
from sanac.prune.selection import BlockSelection
from sanac.quantize.calibration_job import CalibrationJob, fitting_states, with_fit
from sanac.quantize.plan import plan_quantize
from sanac.quantize.settings import QuantizeSettings
from sanac.schedule.settings import ScheduleSettings
from sanac.schedule.velocity_error import plan_errors
from sanac.verify.memory import comparison_memory, comparison_seconds

RESULT = Path("docs/results/devices.json")
NAMES = ("H100", "A100-80GB", "A100-40GB", "L40S", "RTX 5090", "RTX 4090", "24GB", "16GB")
SIZES = ("80GB", "48GB", "32GB", "24GB", "16GB")
KEPT = tuple(range(0, 60, 3))  # twenty blocks
CANDIDATES = 16
PIPELINE = 5_229_000_000 + 640_000_000  # bytes of Gemma-2 2B and of DC-AE in bf16
TRACING = 40.0  # seconds to trace a transformer for the first time


def models(work: Path) -> tuple[Model, Model]:
    """The 4.8B transformer and twenty of its blocks, without a byte of weights."""
    found = []
    for blocks in (60, 20):
        folder = work / str(blocks)
        write_transformer(folder, replace(SANA_4_8B, blocks=blocks), sparse=True)
        found.append(open_model(locate(str(folder))))
    return found[0], found[1]


def finetuned(plan: FinetunePlan) -> dict[str, Any]:
    """The figures of a fine-tuning."""
    teaching, training = plan.seconds
    chosen = [f"{plan.training.precision}, batch {plan.batch}", *plan.training.changes(plan.first)]
    return {
        "chosen": "; ".join(chosen),
        "memory": plan.training.memory.total,
        "seconds": teaching + training,
        "teacher_seconds": teaching,
        "teacher_forwards": plan.teacher_forwards,
    }


def generated(model: Model) -> dict[str, Any]:
    """Sixteen candidates of a prompt: batches that fit beside the weights, decoding not counted."""
    each, taken = image_memory(model, "cuda"), weights_memory(model, "cuda") + PIPELINE
    batch = images_that_fit(free_memory("cuda"), taken, each)
    tokens = CANDIDATES * branches_of(model) * native(model)[1] ** 2 / native(model)[0] ** 2
    seconds = forward_seconds(model, tokens * usual_steps(model), "cuda", "bf16", readings=0.0)
    fits = taken + batch * each <= free_memory("cuda")
    chosen = f"bf16, batches of {batch}" if fits else "doesn't fit: quantize it first"
    return {"chosen": chosen, "memory": taken + batch * each, "seconds": seconds}


def planned(large: Model, small: Model, work: Path) -> dict[str, Any]:
    """All verbs that compute, planned for the device at hand."""
    usual, place = CalibrationSettings(), ConfinedPath(work)
    scoring = plan_scoring(large, usual, work)
    found = {
        "analyze, prune": {
            "chosen": f"{scoring.job.precision}, {scoring.inputs.count} prompts x {scoring.job.sampling.steps} steps",
            "memory": scoring.job.memory,
            "seconds": scoring.seconds,
        }
    }
    search = plan_search(large, BlockSelection("search", 20), usual, place, NULL_REPORTER)
    found["prune --select search"] = {
        "chosen": f"{search.states.precision}, {search.states.count} prompts",
        "memory": search.states.memory,
        "seconds": search.seconds,
    }
    errors = plan_errors(large, ScheduleSettings(budget=0.25, confirm="none"), place, NULL_REPORTER)
    chosen = f"{errors.states.precision}, {errors.states.count} prompts x {errors.states.moments} steps"
    found["schedule"] = {"chosen": chosen, "memory": errors.states.memory, "seconds": errors.seconds}
    states = repair_states(large, usual, NULL_REPORTER)
    repair = RepairJob(plan_artifact("prune", large, keep_blocks(60, list(KEPT)), {}, WriteOptions()), states, place)
    repair = replace(repair, job=replace(repair.job, settings={**repair.job.settings, "compensate": {}}))
    chosen = f"{states.precision}, {states.count} prompts x {states.moments} steps"
    found["prune --compensate"] = {"chosen": chosen, "memory": states.memory, "seconds": repair.seconds}
    try:
        found["finetune, 20 blocks"] = finetuned(resolve_finetune(small, FinetuneSettings(), place, large))
    except MissingResource as error:
        found["finetune, 20 blocks"] = {"chosen": error.message, "memory": 0, "seconds": 0.0}
    settings = QuantizeSettings(scheme="int8")
    job = plan_quantize(small, settings, settings.write_options())
    fit = fitting_states(job, settings.calibration, NULL_REPORTER)
    calibration = CalibrationJob(with_fit(job, fit), settings, fit, place)
    found["quantize int8, 20 blocks"] = {
        "chosen": f"{fit.precision}, {fit.count} prompts",
        "memory": fit.memory,
        "seconds": calibration.seconds,
    }
    for name, model in (("60", large), ("20", small)):
        found[f"generate --search best-of --n 16, {name} blocks"] = generated(model)
    for name, model in (("60", large), ("20", small)):
        found[f"export, {name} blocks"] = {
            "chosen": "on the host, compared block by block",
            "memory": comparison_memory(model),
            "seconds": TRACING + comparison_seconds(model),
        }
    return found


def show(result: Mapping[str, Any]) -> None:
    """The tables in Markdown."""
    for verb in next(iter(result["devices"].values())):
        click.echo(f"\n**{verb}**\n\n| device | chosen | memory | time |\n|---|---|---|---|")
        for name, verbs in result["devices"].items():
            cell = verbs[verb]
            cells = [name, cell["chosen"], bytes_text(cell["memory"]), duration_text(cell["seconds"])]
            click.echo(f"| {' | '.join(cells)} |")
    click.echo("\n**`finetune --plan-for`**\n\n| memory | chosen | needs | teacher | training |\n|---|---|---|---|---|")
    for name, cell in result["sizes"].items():
        teaching = cell["teacher_seconds"]
        times = duration_text(teaching), duration_text(cell["seconds"] - teaching)
        click.echo(f"| {name} | {cell['chosen']} | {bytes_text(cell['memory'])} | {' | '.join(times)} |")


@click.command()
@click.option("--table", is_flag=True, help="Print the tables of what is known.")
def main(*, table: bool) -> None:
    """Plan for every device, and print the tables."""
    if not table:
        with workplace(None) as work:
            large, small = models(work)
            result: dict[str, Any] = {"devices": {}, "sizes": {}}
            for name in NAMES:
                with planning_for(parse_device(name)):
                    result["devices"][name] = planned(large, small, work)
            for name in SIZES:
                with planning_for(parse_device(name)):
                    plan = resolve_finetune(small, FinetuneSettings(), ConfinedPath(work), large)
                    result["sizes"][name] = finetuned(plan)
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
    show(json.loads(RESULT.read_text()))


if __name__ == "__main__":
    main()
