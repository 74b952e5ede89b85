"""Options of sampling that several verbs have."""

from typing import Annotated

from sanac.core.settings import Option
from sanac.core.units import parse_size

Steps = Annotated[int | None, Option("Sampler steps.", "N", "the schedule's, else 20, SANA-Sprint's 2", ge=1, le=1000)]
Guidance = Annotated[float, Option("Guidance scale.", "SCALE", ge=0, le=100)]
ImageSize = Annotated[
    str | None, Option("Width and height in pixels.", "WxH", "the model's native size", check=parse_size)
]
