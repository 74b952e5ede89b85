"""Settings of calibration: prompts, sampler, memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from sanac.core.sampling_options import Guidance
from sanac.core.settings import ADVANCED, Naming, Option, RunSettings, Settings, Size

LIMIT = 2_000_000_000  # bytes
FEWEST = 3  # minimum number of prompts


@dataclass(frozen=True, kw_only=True)
class PromptSettings(Settings):
    """Prompts and sampler settings of the trajectories that a model is calibrated on."""

    TITLE: ClassVar[str] = "Calibration options"

    prompts: Annotated[Path | None, Option("Text file, one prompt per line.", "FILE", "bundled")] = None
    embeddings: Annotated[
        Path | None, Option("Encoded prompts that --save-embeddings wrote, instead of prompts.", "FILE", group=ADVANCED)
    ] = None
    num_prompts: Annotated[
        int | None,
        Option("Number of prompts.", "N", "100; search, gptq, int8, fp8: 32; schedule: 16; a budget: 8", ge=1),
    ] = None
    timesteps: Annotated[int | None, Option("Sampler steps.", "N", "20, SANA-Sprint's 2", ge=1, le=1000)] = None
    guidance: Guidance = 4.5
    memory_limit: Annotated[
        Size | None,
        Option("Maximum memory to use.", "SIZE", "2GB; search, repair and gptq: more", affects_result=False),
    ] = None
    precision: Annotated[
        Literal["bf16", "tf32", "fp32"] | None,
        Option(
            "Precision of products; sums are fp32 or better.",
            "DTYPE",
            "fp32; GPUs: the weights' bf16, or tf32",
            group=ADVANCED,
        ),
    ] = None
    yes: Annotated[bool, Option("Continue even if the estimate exceeds an hour.", affects_result=False)] = False


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings(PromptSettings, RunSettings):
    """Inputs, sampler and limits of scoring and calibration."""

    TITLE: ClassVar[str] = "Calibration options"

    inputs: Annotated[
        Literal["sampled", "noised"],
        Option("Sampled trajectories, or the latents of --data with noise added.", group=ADVANCED),
    ] = "sampled"
    data: Annotated[
        Path | None, Option("Latents of your own images, as .safetensors files.", "DIR", group=ADVANCED)
    ] = None
    reduce: Annotated[Literal["token", "sample"], Option("Cosine per token, or of whole samples.", group=ADVANCED)] = (
        "token"
    )

    save_embeddings: Path | None = None
    velocity: bool = False  # whether each block is also left out in turn
    dry: bool = False  # dry run: only cached results are used, a cache miss is an error

    @property
    def sizes_are_open(self) -> bool:
        """Whether the job may choose the numbers of prompts and steps: the user named neither, and no own inputs."""
        named = {"num_prompts", "timesteps", "prompts", "embeddings", "data"} & self.typed
        inputs = (self.num_prompts, self.prompts, self.embeddings, self.data)
        return not named and inputs == (None,) * len(inputs) and self.timesteps is None

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Inputs that exclude each other."""
        if self.inputs == "noised" and self.data is None:
            yield "inputs", f"{name('inputs')} noised needs {name('data')}, a folder of latents"
        if self.inputs != "noised" and self.data is not None:
            yield "data", f"{name('data')} requires {name('inputs')} noised"
        if self.prompts and self.embeddings:
            yield "embeddings", f"{name('prompts')} and {name('embeddings')} contradict each other"
        if self.prompts and self.data:
            yield (
                "data",
                f"{name('prompts')} and {name('data')} contradict each other: captions are stored with the latents",
            )
        if self.save_embeddings and (self.embeddings or self.data):
            yield "save_embeddings", f"{name('save_embeddings')} only applies to prompts that are encoded here"
        if self.save_embeddings and self.save_embeddings.is_dir():
            yield "save_embeddings", f"{name('save_embeddings')} {self.save_embeddings} is a folder"
