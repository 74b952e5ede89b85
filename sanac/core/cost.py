"""The cost of a stage, estimated from the shape of a model alone: memory, operations, bytes through the disk."""

from dataclasses import dataclass

OVERHEAD = 600_000_000  # bytes of torch and diffusers
STREAMED = 250_000_000  # bytes of a job that never holds the whole model


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a model that need not exist yet."""

    blocks: int
    block_parameters: float
    outside: float  # parameters of the transformer outside the blocks
    bits: float  # per weight of the transformer
    others: float  # bytes of the other components
    other_parameters: float
    tokens: int  # of an image
    steps: int = 20  # of its sampler, by default
    branches: int = 2  # of guidance

    @property
    def parameters(self) -> float:
        """Parameters of the transformer."""
        return self.outside + self.blocks * self.block_parameters

    @property
    def size(self) -> float:
        """Bytes of all weights."""
        return self.parameters * self.bits / 8 + self.others

    @property
    def size_fp32(self) -> float:
        """Bytes of all weights in fp32, as processors compute."""
        return 4 * (self.parameters + self.other_parameters)

    def forward(self, images: float = 1.0) -> float:
        """Operations of one sampler step for all branches of guidance."""
        return 2 * self.branches * self.parameters * self.tokens * images


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a stage, and the shape of its result."""

    after: ModelShape
    memory: float  # bytes
    operations: float  # multiplications and additions
    traffic: float  # bytes through the disk
    seconds: float = 0.0  # besides these
    problem: str = ""  # why the stage can't run on this model
