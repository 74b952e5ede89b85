"""CAME (arXiv 2307.02047) with an 8-bit first moment, the optimizer of SANA-1.5.

For a weight as a matrix with gradient g, only row and column means of squares are stored, in fp32:

    r, c  follow the row and column means of g^2 + eps1
    u     = g / sqrt(r c / mean r),  u /= max(1, RMS(u) / clip)
    m     follows u, stored in 8 bits
    R, C  follow the row and column means of (u - m)^2 + eps2
    p    -= rate m / sqrt(R C / mean R)

The averages start at zero. R and C grow slowest, so the first updates are up to eleven times too large:
either a warm-up compensates, or `correct_bias` divides every average by 1 - b^t, as Adam does.
Weights in bf16 are rounded stochastically, so that small updates aren't lost.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sanac.train.state_8bit import BLOCK, Packed, pack, unpack

SMALLEST = 16_384  # elements: weights up to this size keep an fp32 first moment
_CHUNK = 1 << 19  # elements processed at a time on a CPU, so that they stay in its cache


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Matrix shape in which a weight is factored: linear and 1x1 conv as they are, depthwise (channels, 9), or None."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 4 and (shape[2:] == (1, 1) or shape[1] == 1):
        return shape[0], math.prod(shape[1:])
    return None


def stored_in_eight(shape: tuple[int, ...]) -> bool:
    """Whether a weight's first moment is stored in 8 bits: large linear layers and 1x1 convolutions."""
    flat = len(shape) == 2 or (len(shape) == 4 and shape[2:] == (1, 1))
    return flat and math.prod(shape) > SMALLEST


class Came(torch.optim.Optimizer):  # type: ignore[misc]
    """The CAME optimizer. Updates one weight at a time with one temporary tensor of the largest weight's size."""

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
        self._rooms: dict[torch.device, Tensor] = {}  # reused buffers: allocating costs more than the update

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every weight that has a gradient."""
        loss = closure() if closure else None
        weights = [(weight, group) for group in self.param_groups for weight in group["params"]]
        moving = [(weight, group) for weight, group in weights if weight.grad is not None]
        with torch.no_grad():
            for weight, group in sorted(moving, key=lambda pair: -pair[0].numel()):  # the largest allocates the buffer
                if weight not in self.state:
                    self.state[weight] = new_state(weight, group["bits"])
                _CameStep(weight, self.state[weight], group, self._room(weight)).take()
        return loss

    def _room(self, weight: Tensor) -> Tensor:
        """Buffer for one weight's update."""
        if len(self._rooms.get(weight.device, ())) < weight.numel():
            self._rooms[weight.device] = torch.empty(weight.numel(), device=weight.device)
        return self._rooms[weight.device]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state in its saved dtypes; torch would cast codes and averages to the weight's dtype."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for number, weight in zip(numbers, weights, strict=True):
            for name, value in state_dict["state"].get(number, {}).items():
                self.state[weight][name] = value.to(weight.device, copy=True) if torch.is_tensor(value) else value


def new_state(weight: Tensor, bits: int) -> dict[str, Tensor]:
    """Initial optimizer state of a weight."""

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
    """Round fp32 to bf16 stochastically, so that updates smaller than a bf16 step accumulate on average."""
    bits = values.view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=values.device, generator=chance)
    return bits.add_(noise).bitwise_and_(-(1 << 16)).view(torch.float32).to(torch.bfloat16)


class _CameStep:
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
        """Bias correction 1 - beta^t of an average that started at zero; 1 without correct_bias."""
        return 1 - beta**self.count if self.group["correct_bias"] else 1.0

    @cached_property
    def chunks(self) -> Sequence[slice]:
        """Row ranges that are processed together; all but the last cover whole blocks of the 8-bit storage."""
        rows, columns = self.shape
        whole = BLOCK // math.gcd(columns, BLOCK)
        together = rows if self.weight.is_cuda else max(1, _CHUNK // columns // whole) * whole
        return [slice(first, min(rows, first + together)) for first in range(0, rows, together)]

    def _scratch(self, number: int, chunk: slice) -> Tensor:
        rows, columns = chunk.stop - chunk.start, self.shape[1]
        return self.scratch[number][: rows * columns].view(rows, columns)

    def take(self) -> None:
        """Update the weight and its state."""
        rows, columns = self._factors()
        self.factors = rows / self._excess(rows, columns), columns
        apart = self._moment()
        if self.factored:
            self._move(*self._follow("res", apart, self.group["betas"][2]))
        else:
            self._move(self.one, self.one)

    def _factors(self) -> tuple[Tensor, Tensor]:
        """Row and column factors of 1 / sqrt(average squared gradient); a single row if the weight isn't factored."""
        beta = self.group["betas"][1]
        if self.factored:
            return self._follow("sq", self._squares(), beta)
        average = self.state["exp_avg_sq"].view(self.shape)
        average.lerp_(self.gradient.float().square().add_(self.group["eps"][0]), 1 - beta)
        return self.one, (average / self.seen(beta)).rsqrt_()

    def _excess(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The factor by which the update's RMS exceeds the clip threshold, at least one."""
        lengths = []  # per row: norm() of a whole tensor is slow
        for chunk in self.chunks:
            update = torch.mul(self.gradient[chunk], columns, out=self._scratch(0, chunk))
            lengths.append(torch.linalg.vector_norm(update, dim=1))
        length = torch.linalg.vector_norm(torch.cat(lengths) * rows.view(-1))
        return (length / math.sqrt(self.weight.numel()) / self.group["clip"]).clamp_(min=1.0)

    def _move(self, rows: Tensor, columns: Tensor) -> None:
        """Apply the update: the first moment scaled by the row and column factors and the learning rate."""
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
        """Update the row and column averages; returns the factors of the inverse square root."""
        rows, columns = (self.state[f"exp_avg_{what}_{side}"] for side in ("row", "col"))
        rows.lerp_(means[0], 1 - beta)
        columns.lerp_(means[1], 1 - beta)
        return (rows / rows.mean()).rsqrt_()[:, None], (columns / self.seen(beta)).rsqrt_()

    def _update(self, chunk: slice) -> Tensor:
        """The gradient divided by the square root of its average square."""
        return torch.mul(self.gradient[chunk], self.factors[0][chunk], out=self._scratch(0, chunk)).mul_(
            self.factors[1]
        )

    def _moment(self) -> tuple[Tensor, Tensor]:
        """Update the first moment; returns row and column means of the squared residual (u - m)^2."""
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
        """8-bit storage of some rows of the first moment."""
        first, last = chunk.start * self.shape[1], chunk.stop * self.shape[1]
        blocks = slice(first // BLOCK, -(-last // BLOCK))
        return Packed(self.state["exp_avg"][first:last], self.state["exp_avg_scale"][blocks])
