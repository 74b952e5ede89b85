"""`sanac export`: graphs for other runtimes."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sanac.cli.engines import EngineOptions, engines
from sanac.cli.model_argument import before_rerun, newest_word, open_word
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.output import Result
from sanac.cli.surgery import SurgeryOptions, run_surgery, surgery
from sanac.core.units import bytes_text

if TYPE_CHECKING:
    from sanac.core.artifact.model import Model
    from sanac.core.write.job import ArtifactJob


@click.command(
    "export",
    short_help="Graphs and engines for other runtimes: ONNX, TensorRT.",
    epilog="""\b
Examples:
  sanac export
  sanac export MODEL --precision fp32 --out exported
  sanac export ./pruned --in-place
  sanac export ./pruned --trt --sm rtx4090 --batch 1..4 --size 512..2048
  sanac export MODEL --component transformer --precision fp16 --depthwise fp32
  sanac export MODEL --transformer-only --no-verify --dry-run""",
)
@click.argument("model", metavar="[MODEL]", required=False)
@click.option("--onnx", is_flag=True, help="ONNX graphs.  [default]")
@click.option("--component", "components", multiple=True, metavar="NAME", help="transformer, text-encoder, vae, all.")
@click.option(
    "--precision", type=click.Choice(["bf16", "fp16", "fp32"]), help="To compute in.  [default: as it is stored]"
)
@click.option("--depthwise", type=click.Choice(["fp16", "fp32"]), help="Another one for depthwise convolutions.")
@click.option("--in-place", is_flag=True, help="Add the graphs to MODEL, an artifact, itself: no weights are copied.")
@click.option("--no-verify", is_flag=True, help="Don't compare the graphs with the model.")
@engines
@surgery
@stage
@common()
def command(
    model: str | None,
    onnx: bool,  # noqa: ARG001 (it is what is done anyway)
    components: tuple[str, ...],
    precision: str | None,
    depthwise: str | None,
    in_place: bool,
    no_verify: bool,
    engine: EngineOptions,
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Write MODEL with ONNX graphs beside its weights, for any batch, size and length of caption; with --trt, engines.

    Graphs refer to the weights where they lie: nothing is stored twice but the autoencoder, of which clients want its
    halves in folders of their own. With --in-place no copy of the model is written: an artifact gets graphs beside its
    weights, and stays the artifact that it is. What was exported is compared with MODEL afterwards: exit 5 if it isn't
    the same. Without MODEL it takes the workspace's newest artifact.
    """
    from sanac.export.job import ExportSettings, plan_export

    asked = engine.asked()
    word = model or newest_word(options, common)
    opened = open_word(word, common)
    if model is None and not in_place:
        word, opened = before_rerun(word, opened, "export", common)
    opened = opened.with_loras(chosen.loras)
    names = () if "all" in components else tuple(dict.fromkeys(components))
    job = plan_export(opened, ExportSettings(names, precision, depthwise), chosen.writing(options), asked)
    silent = no_verify or options.dry_run
    if not silent:
        _check_verifiable(opened, common)
    if in_place:
        _refuse_copying(chosen, options)
        result = _added(word, job, options, common)
    else:
        result = run_surgery(word, job, options, common)
    if asked and not options.dry_run:
        result = _with_engines(result, job)
    if silent:
        return result
    return _verified(result, opened, job, common)


def _check_verifiable(model: "Model", common: Common) -> None:
    """Found out before anything is written."""
    from sanac.core.errors import MissingResource
    from sanac.runtime.onnx_session import installed
    from sanac.verify.end_to_end import check_memory

    try:
        installed()
        check_memory(model, common.reporter, pictures=model.model_index is not None)
    except MissingResource as error:
        hint = f"{error.hint}; or --no-verify, and sanac verify --pictures 0 where there is room"
        raise MissingResource(error.message, why=error.why, hint=hint) from error


def _refuse_copying(chosen: SurgeryOptions, options: StageOptions) -> None:
    """What says how a copy is made means nothing where none is."""
    from sanac.core.errors import UsageError

    asked = {"--out": options.out, "--lora": chosen.loras, "--link": chosen.link, "--fresh": options.fresh}
    asked |= {"--full-hash": chosen.full_hash, "--transformer-only": chosen.transformer_only}
    if meant := [option for option, value in asked.items() if value]:
        raise UsageError(
            f"{meant[0]} is about a copy of the model, --in-place makes none", hint="leave one of them out"
        )


def _added(word: str, job: "ArtifactJob", options: StageOptions, common: Common) -> Result:
    """Have the job's last step done in the model's own folder, and record it as the newest artifact."""
    from sanac.core.artifact.engine_record import ENGINE
    from sanac.core.artifact.workspace import read_workspace, record
    from sanac.core.write.in_place import add, is_complete
    from sanac.nn.onnx_files import GRAPH

    read_workspace(options.workspace)
    assert job.finish
    folder, names = job.model.located.path, job.finish.names
    what = ", ".join(name for name in names if name.endswith((GRAPH, ENGINE)))
    data: dict[str, Any] = {"key": job.key, "added": list(names), "dry_run": options.dry_run}
    status = "cached" if is_complete(job) and not options.force else "ok"
    if options.dry_run:
        done = f"would add {what} to {folder}, with {bytes_text(job.finish.disk)} of disk"
    else:
        status, _ = add(job, common.reporter)
        record(options.workspace, word, folder)
        done = f"added {what} to {folder}"
    if status == "cached":
        done = f"{folder} already has {what} (cached)"
    return Result(status, lambda: click.echo(done), data, str(folder), common.as_json)


def _with_engines(result: Result, job: "ArtifactJob") -> Result:
    """The engines that stand there now, each with what is known of it."""
    from sanac.cli.engines import show_engines
    from sanac.core.artifact.engine_record import ENGINE, check_file

    assert job.finish
    names = [name for name in job.finish.names if name.endswith(ENGINE)]
    found = {name: check_file(Path(str(result.out), name)) for name in names}

    def show() -> None:
        result.show()
        show_engines(found)

    return replace(result, show=show, data={**result.data, "engines": [one.to_json() for one in found.values()]})


def _verified(result: Result, reference: "Model", job: "ArtifactJob", common: Common) -> Result:
    """Graphs beside the model; and those engines that were built for the GPU that is here."""
    from sanac.cli.verify import verified
    from sanac.core.artifact.engine_record import ENGINE, check_file
    from sanac.nn.device import capability
    from sanac.verify.end_to_end import VerifySettings

    assert job.finish
    written = open_word(str(result.out), common)
    against = written if reference.patches else reference
    result = _joined(result, verified(written, against, VerifySettings(), common), "verify")
    names = [name for name in job.finish.names if name.endswith(ENGINE)]
    mine = tuple(n for n in names if capability() in check_file(written.located.path / n).capabilities)
    if not mine:
        return result
    return _joined(result, verified(written, against, VerifySettings("trt", engines=mine), common), "verify_trt")


def _joined(result: Result, found: Result, name: str) -> Result:
    """Both results in one; the worse verdict counts."""

    def show() -> None:
        result.show()
        found.show()

    status, code = (found.status, found.exit_code) if found.exit_code else (result.status, result.exit_code)
    return replace(result, show=show, status=status, exit_code=code, data={**result.data, name: found.data})
