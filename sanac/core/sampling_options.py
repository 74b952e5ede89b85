"""Options of sampling that several verbs have."""

from typing import Annotated, Literal

from sanac.core.settings import Option
from sanac.core.units import parse_size

TOKENS = "Options of token generators"
Steps = Annotated[
    int | None, Option("Sampler steps.", "N", "the schedule's, else 20; SANA-Sprint 2, tokens 18", ge=1, le=1000)
]
Guidance = Annotated[
    float, Option("Guidance scale; of token generators Show-o's.", "SCALE", "4.5; tokens 1.75", ge=0, le=100)
]
Order = Annotated[
    Literal["confidence", "halton"],
    Option("Which tokens become known first: the surest, or in a fixed order.", "NAME", group=TOKENS),
]
Temperature = Annotated[float, Option("Noise in the order by confidence; 0: none.", "T", ge=0, le=100, group=TOKENS)]
ImageSize = Annotated[
    str | None, Option("Width and height in pixels.", "WxH", "the model's native size", check=parse_size)
]
