"""The model card (README.md) of an artifact: what it is, how to load it, its lineage."""

from collections.abc import Mapping, Sequence

from sanac.core.artifact.engine_record import Record
from sanac.core.artifact.manifest import Ancestor, compose
from sanac.core.artifact.schedule import Schedule
from sanac.core.checkpoint.locate import hub_id
from sanac.core.family.architecture import Architecture

_PIPELINE = """from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained("PATH_OF_THIS_FOLDER")
{call}"""

_TRANSFORMER = """from diffusers import SanaTransformer2DModel

transformer = SanaTransformer2DModel.from_pretrained("PATH_OF_THIS_FOLDER", subfolder="transformer")"""


_OWN = """import sanac  # some weights are packed: stock diffusers can't read them

pipe = sanac.load_pipeline("PATH_OF_THIS_FOLDER")
{call}"""

_SCHEDULED = """import sanac  # follows schedule.json; a stock pipeline would run all blocks at every step

pipe = sanac.load_pipeline("PATH_OF_THIS_FOLDER")
{call}"""

_OWN_TRANSFORMER = """import sanac  # some weights are packed: stock diffusers can't read them

transformer = sanac.load_transformer("PATH_OF_THIS_FOLDER")"""

LINEAGE = "## Where it comes from\n"  # the section that measurements are put before
_CALL = 'image = pipe("a red circle").images[0]'

_FEW_STEPS = """image = pipe("a red circle", num_inference_steps=2, guidance_scale=4.5).images[0]
# for 1, 3 or 4 steps, pass intermediate_timesteps=None too"""

_TORCHAO = "Its 8-bit weights are torchao's: `pip install torchao` beside diffusers.\n"


def render(
    lineage: Sequence[Ancestor],
    left_out: Sequence[str],
    source: Architecture,
    engines: Mapping[str, Record],
    size: str,
    *,
    whole: bool,
    own: bool = False,
    torchao: bool = False,
    schedule: Schedule | None = None,
) -> str:
    """The model card, in Markdown with the hub's front matter; `size` says how large the model is."""
    packed, plain = (_OWN, _PIPELINE) if whole else (_OWN_TRANSFORMER, _TRANSFORMER)
    if schedule and whole:
        packed = plain = _SCHEDULED
    call = _FEW_STEPS if source.guidance else _CALL
    packed, plain = (text.format(pipeline=source.pipeline, call=call) for text in (packed, plain))
    base, last = lineage[0].name, lineage[-1]
    base_id = hub_id(base) or hub_id(lineage[0].hub)
    base_line = f"base_model: {base_id}\n" if base_id else ""
    steps = "\n".join(f"{number}. {_step(step)}" for number, step in enumerate(lineage, start=1))
    plan = compose(lineage)
    in_all = f"\nIn all: {plan}.\n" if plan and plan.moves else ""
    left_out = f"\nNot in this folder: {', '.join(left_out)}.\n" if left_out else ""
    return f"""---
library_name: diffusers
pipeline_tag: text-to-image
{base_line}tags: [sana, sanac]
---

# {base}, {last.stage}

Made by sanac from {source.title}. The content key is `{last.key}`.

{size}
{f"Its schedule: {schedule}.{chr(10)}" if schedule else ""}{left_out}
```python
{packed if own else plain}
```
{_TORCHAO if torchao and not own else ""}{_engines(engines)}
{LINEAGE}
{steps}
{in_all}
`sanac inspect --scan` on this folder checks every byte against `sanac.json`.
Scores and pictures that were made later are in `measurements/`.
The terms of the source's licence apply to it.
"""


def _engines(records: Mapping[str, Record]) -> str:
    """The card's section about engines: builder, target GPUs, and whether they were executed."""
    rows = "\n".join(f"- `{name}`, by {one.built_with}: *{one.executed}*" for name, one in records.items())
    hint = "`sanac verify` with `--backend trt` runs them and writes its result to `measurements/verify-trt.json`."
    return f"\n## Engines\n\n{rows}\n\n{hint}\n" if records else ""


def _step(step: Ancestor) -> str:
    text = f"**{step.stage}**"
    text += f" {step.name}" if step.name else ""
    return f"{text}: {step.moved}" if step.moved else text
