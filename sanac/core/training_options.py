"""Options of training that several verbs have."""

from typing import Annotated, Literal

from sanac.core.settings import Option

TRAINING, MEMORY = "Optimizer options", "Memory and speed options"  # groups in help
Optimizer = Annotated[
    Literal["came8bit", "came", "adamw", "adamw8bit"], Option("The optimizer.", "NAME", group=TRAINING)
]
Ema = Annotated[
    float, Option("Decay of the weights' moving average; 0 turns it off.", "DECAY", ge=0, lt=1, group=TRAINING)
]
Precision = Annotated[
    Literal["fp32", "bf16"] | None,
    Option(
        "Precision of the forward and backward pass.", "DTYPE", "bf16 on GPUs that have it, else fp32", group=MEMORY
    ),
]
Checkpointing = Annotated[
    bool,
    Option("Gradient checkpointing: less memory, a third more time.  [default where memory is short]", group=MEMORY),
]
