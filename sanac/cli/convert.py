"""`sanac convert`: the same model in another layout."""

import click

from sanac.cli.model_argument import open_word
from sanac.cli.options import Common, StageOptions, common, stage
from sanac.cli.output import Result
from sanac.cli.surgery import SurgeryOptions, run_surgery, surgery


@click.command(
    "convert",
    short_help="The same model in another layout.",
    epilog="""\b
Examples:
  sanac convert Sana_1600M_1024px.pth --to diffusers --pipeline Efficient-Large-Model/Sana_1600M_1024px_diffusers
  sanac convert ./pruned --to nvlabs --out for-training
  sanac convert MODEL --to single --lora style.safetensors:0.8""",
)
@click.argument("model", metavar="MODEL")
@click.option("--to", "layout", required=True, type=click.Choice(["diffusers", "nvlabs", "single"]), help="The layout.")
@click.option("--pipeline", metavar="MODEL", help="A pipeline whose other components complete a lone transformer.")
@surgery
@stage
@common("seed", "device")
def command(
    model: str,
    layout: str,
    pipeline: str | None,
    chosen: SurgeryOptions,
    options: StageOptions,
    common: Common,
) -> Result:
    """Write MODEL as a diffusers folder, as NVlabs' model.pth, or as one model.safetensors with NVlabs' names.

    Family, depth and layout are read off the tensors, never off a path. Nothing is unpickled: a .pth file's tensors are
    found by their place in the file. There and back is bit-exact: what only one layout has is kept in a side file.
    """
    from sanac.core.write.convert import decide_convert, notices

    opened = open_word(model, common).with_loras(chosen.loras)
    reference = open_word(pipeline, common) if pipeline else None
    job = decide_convert(opened, chosen.writing(options, layout), reference)
    for notice in notices(job):
        common.reporter.note(notice)
    return run_surgery(model, job, options, common)
