"""CAME (arXiv 2307.02047) with the first moment in 8 bits, as SANA-1.5 trains with it.

Of a weight seen as a matrix, g its gradient, only row and column means of the squares are kept, in fp32:

    r, c  follow the row and column means of g^2 + eps1
    u     = g / sqrt(r c / mean r),  u /= max(1, RMS(u) / clip)
    m     follows u, stored in 8 bits
    R, C  follow the row and column means of (u - m)^2 + eps2
    p    -= rate m / sqrt(R C / mean R)

The averages start at zero. R and C then grow slowest, so the first updates come out up to eleven times too large:
either a warm-up holds them down, or `correct_bias` divides every average by what it has seen so far, 1 - b^t.
Weights in bf16 are rounded by chance, so that small steps aren't lost.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sanac.train.state_8bit import BLOCK, Packed, pack, unpack

SMALLEST = 16_384  # elements: smaller weights keep their first moment in fp32
_CHUNK = 1 << 19  # elements that are worked on together on a CPU: they stay in its cache


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """How a weight is factored: linear layers and 1x1 convolutions as they are, depthwise ones (channels, 9)."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 4 and (shape[2:] == (1, 1) or shape[1] == 1):
        return shape[0], math.prod(shape[1:])
    return None


def stored_in_eight(shape: tuple[int, ...]) -> bool:
    """Whether the first moment of a weight is kept in 8 bits: linear layers and 1x1 convolutions that are large."""
    flat = len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1))
    return flat and math.prod(shape) > SMALLEST


class Came(torch.optim.Optimizer):  # type: ignore[misc]
    """Works on one weight at a time; besides its state it holds one tensor of that weight's size."""

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 2e-5,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        eps: tuple[float, float] = (1e-30, 1e-16),
        clip: float = 1.0,
        weight_decay: float = 0.0,
        *,
        bits: int = 8,
        correct_bias: bool = False,
    ) -> None:
        assert bits in {8, 32}
        defaults = {"lr": lr, "betas": betas, "eps": eps, "clip": clip, "weight_decay": weight_decay}
        super().__init__(params, defaults | {"bits": bits, "correct_bias": correct_bias})
        self._rooms: dict[torch.device, Tensor] = {}  # kept from step to step: fresh memory costs more than the work

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move every weight that has a gradient."""
        loss = closure() if closure else None
        weights = [(weight, group) for group in self.param_groups for weight in group["params"]]
        moving = [(weight, group) for weight, group in weights if weight.grad is not None]
        with torch.no_grad():
            for weight, group in sorted(moving, key=lambda pair: -pair[0].numel()):  # the largest makes the room
                if weight not in self.state:
                    self.state[weight] = new_state(weight, group["bits"])
                _Step(weight, self.state[weight], group, self._room(weight)).take()
        return loss

    def _room(self, weight: Tensor) -> Tensor:
        """Where one weight's change is held."""
        if len(self._rooms.get(weight.device, ())) < weight.numel():
            self._rooms[weight.device] = torch.empty(weight.numel(), device=weight.device)
        return self._rooms[weight.device]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As saved: torch would cast codes and fp32 averages to the weight's dtype."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for number, weight in zip(numbers, weights, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[weight][name] = value.to(weight.device, copy=True) if torch.is_tensor(value) else value


def new_state(weight: Tensor, bits: int) -> dict[str, Tensor]:
    """What is remembered of a weight, before its first step."""

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=weight.device)

    state = {"step": torch.zeros((), dtype=torch.int64)}
    if bits == 8 and stored_in_eight(tuple(weight.shape)):
        blocks = -(-weight.numel() // BLOCK)
        state |= {"exp_avg": zeros(weight.numel(), dtype=torch.int8), "exp_avg_scale": zeros(blocks)}
    else:
        state |= {"exp_avg": zeros(*weight.shape)}
    matrix = as_matrix(tuple(weight.shape))
    if matrix is None:
        return state | {"exp_avg_sq": zeros(*weight.shape)}
    sizes = {"row": matrix[0], "col": matrix[1]}
    return state | {f"exp_avg_{what}_{side}": zeros(size) for what in ("sq", "res") for side, size in sizes.items()}


def round_stochastically(values: Tensor, chance: torch.Generator) -> Tensor:
    """To bf16, up or down by chance, so that changes smaller than its steps add up instead of being lost."""
    bits = values.view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=values.device, generator=chance)
    return bits.add_(noise).bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)


class _Step:
    """One step of one weight."""

    def __init__(self, weight: Tensor, state: dict[str, Tensor], group: Mapping[str, Any], room: Tensor) -> None:
        assert weight.grad is not None
        state["step"] += 1
        self.weight, self.state, self.group = weight, state, group
        self.count = int(state["step"])
        matrix = as_matrix(tuple(weight.shape))
        self.shape = matrix or (1, weight.numel())
        self.factored = matrix is not None
        self.gradient = weight.grad.reshape(self.shape)
        self.eight = state["exp_avg"].dtype == torch.int8
        self.moment = (room[: weight.numel()] if self.eight else state["exp_avg"]).view(self.shape)
        longest = max(((chunk.stop - chunk.start) * self.shape[1] for chunk in self.chunks), default=0)
        self.scratch = [torch.empty(longest, device=weight.device) for _ in range(2)]
        self.one = torch.ones(1, 1, device=weight.device)

    def seen(self, beta: float) -> float:
        """What an average that started at zero has seen so far, as a share of one."""
        return 1 - beta**self.count if self.group["correct_bias"] else 1.0

    @cached_property
    def chunks(self) -> Sequence[slice]:
        """Rows that are worked on together; in whole blocks of the 8-bit storage, but for the last."""
        rows, columns = self.shape
        whole = BLOCK // math.gcd(columns, BLOCK)
        together = rows if self.weight.is_cuda else max(1, _CHUNK // columns // whole) * whole
        return [slice(first, min(rows, first + together)) for first in range(0, rows, together)]

    def _scratch(self, number: int, chunk: slice) -> Tensor:
        rows, columns = chunk.stop - chunk.start, self.shape[1]
        return self.scratch[number][: rows * columns].view(rows, columns)

    def take(self) -> None:
        """Change the weight and its state."""
        rows, columns = self._factors()
        self.factors = rows / self._excess(rows, columns), columns
        apart = self._moment()
        if self.factored:
            self._move(*self._follow("res", apart, self.group["betas"][2]))
        else:
            self._move(self.one, self.one)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """By row and by column, what divides a gradient by the root of its average square; as one row if unfactored."""
        beta = self.group["betas"][1]
        if self.factored:
            return self._follow("sq", self._squares(), beta)
        average = self.state["exp_avg_sq"].view(self.shape)
        average.lerp_(self.gradient.float().square().add_(self.group["eps"][0]), 1 - beta)
        return self.one, (average / self.seen(beta)).rsqrt_()

    def _excess(self, rows: Tensor, columns: Tensor) -> Tensor:
        """How many times longer than allowed the update is; one if it is not."""
        lengths = []  # row by row: norm() of a whole tensor is slow
        for chunk in self.chunks:
            update = torch.mul(self.gradient[chunk], columns, out=self._scratch(0, chunk))
            lengths.append(torch.linalg.vector_norm(update, dim=1))
        length = torch.linalg.vector_norm(torch.cat(lengths) * rows.view(-1))
        return (length / math.sqrt(self.weight.numel()) / self.group["clip"]).clamp_(min=1.0)

    def _move(self, rows: Tensor, columns: Tensor) -> None:
        """The weight along its first moment, each element as far as its row and its column say."""
        rate, decay, weight = self.group["lr"], self.group["weight_decay"], self.weight.view(self.shape)
        rows = rows * (rate / self.seen(self.group["betas"][0]))
        if decay:
            weight.add_(weight, alpha=-rate * decay)
        chance = torch.Generator(weight.device).manual_seed(self.count)
        for chunk in self.chunks:
            move = torch.mul(self.moment[chunk], rows[chunk], out=self._scratch(0, chunk))
            if weight.dtype == torch.bfloat16:
                weight[chunk] = round_stochastically(weight[chunk].float().addcmul_(move, columns, value=-1), chance)
            else:
                weight[chunk].addcmul_(move, columns, value=-1)

    def _squares(self) -> tuple[Tensor, Tensor]:
        """Row and column means of the squared gradient."""
        rows, columns = self._means()
        for chunk in self.chunks:
            gradient = self.gradient[chunk].float()
            squares = torch.mul(gradient, gradient, out=self._scratch(0, chunk))
            torch.mean(squares, dim=1, out=rows[chunk])
            columns += squares.sum(dim=0)
        return rows.add_(self.group["eps"][0]), columns.div_(self.shape[0]).add_(self.group["eps"][0])

    def _means(self) -> tuple[Tensor, Tensor]:
        device = self.weight.device
        return torch.zeros(self.shape[0], device=device), torch.zeros(self.shape[1], device=device)

    def _follow(self, what: str, means: tuple[Tensor, Tensor], beta: float) -> tuple[Tensor, Tensor]:
        """Let both averages follow; the factors that divide by the root of what they stand for."""
        rows, columns = (self.state[f"exp_avg_{what}_{side}"] for side in ("row", "col"))
        rows.lerp_(means[0], 1 - beta)
        columns.lerp_(means[1], 1 - beta)
        return (rows / rows.mean()).rsqrt_()[:, None], (columns / self.seen(beta)).rsqrt_()

    def _update(self, chunk: slice) -> Tensor:
        """The gradient, divided by the root of its average square."""
        return torch.mul(self.gradient[chunk], self.factors[0][chunk], out=self._scratch(0, chunk)).mul_(
            self.factors[1]
        )

    def _moment(self) -> tuple[Tensor, Tensor]:
        """Let the first moment follow; row and column means of how far the updates are from it."""
        rows, columns = self._means()
        for chunk in self.chunks:
            update, moment = self._update(chunk), self.moment[chunk]
            if self.eight:
                unpack(self._stored(chunk), moment.view(-1))
            moment.lerp_(update, 1 - self.group["betas"][0])
            if self.eight:
                pack(moment.view(-1), self._stored(chunk), self._scratch(1, chunk).view(-1))
            if self.factored:
                apart = update.sub_(moment).square_()
                torch.mean(apart, dim=1, out=rows[chunk])
                columns += apart.sum(dim=0)
        return rows.add_(self.group["eps"][1]), columns.div_(self.shape[0]).add_(self.group["eps"][1])

    def _stored(self, chunk: slice) -> Packed:
        """Where some rows of the first moment are kept in 8 bits."""
        first, last = chunk.start * self.shape[1], chunk.stop * self.shape[1]
        blocks = slice(first // BLOCK, -(-last // BLOCK))
        return Packed(self.state["exp_avg"][first:last], self.state["exp_avg_scale"][blocks])
