"""Settings of `sanac quantize`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from sanac.core.checkpoint.quant_json import STATIC, TOKEN
from sanac.core.errors import UsageError
from sanac.core.quant.layer_rules import QuantRequest
from sanac.core.quant.schemes import SCHEMES, Scheme, scheme_of
from sanac.core.settings import Naming, Option, RunSettings, Size
from sanac.core.write.settings import WriteSettings
from sanac.nn.calibration.settings import CalibrationSettings, PromptSettings

SCHEME_NAMES = tuple(SCHEMES)
WEIGHT_ONLY = tuple(name for name, scheme in SCHEMES.items() if not scheme.activations)
_SCHEME, _MIXED = "Scheme options", "Budget options"  # groups in help
_ONE_SCHEME = ("group_size", "smoothing", "activation_range")
_BUDGET = ("schemes", "explain")


@dataclass(frozen=True, kw_only=True)
class QuantizeSettings(PromptSettings, WriteSettings, RunSettings):
    """Store MODEL's weights in fewer bits, tensor by tensor; the input is not touched.

    One of --scheme, --max-bytes and --min-sqnr says how. What needs activations (gptq, int8, fp8, smoothing) or
    measured errors (a budget) samples prompts with the model; everything else gives the same bytes anywhere. quant.json
    beside the weights says which are quantized, how, and why the others are not.
    Without MODEL it takes the workspace's newest artifact that this verb, or a later one, didn't make.
    """

    TITLE: ClassVar[str] = "Options"
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = (("scheme", "max_bytes", "min_sqnr"),)
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "sanac quantize --scheme int8-wo",
        "sanac quantize MODEL --scheme int4-wo --group-size 64 --component transformer",
        "sanac quantize MODEL --scheme int8-wo --component transformer --component text-encoder",
        "sanac quantize MODEL --scheme int4-wo --rounding gptq --num-prompts 32",
        "sanac quantize MODEL --scheme int8 --num-prompts 32",
        "sanac quantize MODEL --max-bytes 2GB --component transformer --component text-encoder --explain",
        "sanac quantize MODEL --scheme int4-wo --rounding nearest --include kv --dry-run",
    )

    scheme: Annotated[
        str | None,
        Option("Weight-only (-wo), or weights and activations (the others).", "NAME", choices=SCHEME_NAMES),
    ] = None
    component: Annotated[
        tuple[Literal["transformer", "text-encoder", "vae"], ...],
        Option("The component to quantize. May be repeated.", "NAME"),
    ] = ("transformer",)
    group_size: Annotated[
        int | None,
        Option(
            "Inputs that share a scale.",
            "N",
            "64 for int4-wo, else a whole channel",
            ge=1,
            aliases=("block",),
            stored="block",
            group=_SCHEME,
        ),
    ] = None
    rounding: Annotated[
        Literal["nearest", "search", "gptq"] | None,
        Option(
            "Scales by the largest value, or by the smallest error; gptq: values fitted to the activations, too.",
            "METHOD",
            "search for int4-wo, else nearest",
            group=_SCHEME,
        ),
    ] = None
    include: Annotated[
        tuple[Literal["kv", "ends"], ...],
        Option("Layers that are skipped otherwise. May be repeated.", "NAME", group=_SCHEME),
    ] = ()
    skip: Annotated[
        tuple[str, ...],
        Option(
            "Weights to leave unquantized, by a pattern of their names. May be repeated.",
            "PATTERN",
            aliases=("leave",),
            stored="leave",
            group=_SCHEME,
        ),
    ] = ()
    smoothing: Annotated[
        Literal["search", "none"] | None,
        Option("SmoothQuant-style smoothing of the inputs of outlier-prone layers.", "METHOD", "search", group=_SCHEME),
    ] = None
    activation_range: Annotated[
        Literal["minmax", "percentile", "mse"] | None,
        Option(
            "How int8's and fp8's static activation scales are chosen.",
            "METHOD",
            "minmax",
            aliases=("ranges",),
            stored="ranges",
            group=_SCHEME,
        ),
    ] = None
    max_bytes: Annotated[
        Size | None, Option("Size budget for the components: mix schemes for the lowest error that fits.", "SIZE")
    ] = None
    min_sqnr: Annotated[
        float | None,
        Option("Quality budget, of the velocity: mix schemes for the fewest bytes.", "DB", gt=0, lt=200),
    ] = None
    schemes: Annotated[
        tuple[str, ...],
        Option(
            "Schemes that --max-bytes and --min-sqnr mix.",
            "LIST",
            "int8-wo,int4-wo",
            choices=WEIGHT_ONLY,
            comma=True,
            aliases=("among",),
            stored="among",
            group=_MIXED,
        ),
    ] = ()
    explain: Annotated[
        bool, Option("Print how sensitive each weight is, and the scheme that it got.", recipe=False, group=_MIXED)
    ] = False

    @property
    def weight_scheme(self) -> Scheme:
        """The scheme, with its group size checked."""
        assert self.scheme is not None
        return scheme_of(self.scheme, self.group_size)

    @property
    def needs_calibration(self) -> bool:
        """Whether the layers' activations are needed."""
        return self.rounding == "gptq" or self.smooth or (self.scheme in SCHEMES and self._activations == STATIC)

    @property
    def smooth(self) -> bool:
        """Whether the activations of outlier-prone layers are smoothed."""
        return bool(self._activations) and self.smoothing != "none"

    @property
    def request(self) -> QuantRequest:
        """The request about each component's weights."""
        include = frozenset(self.include)
        return QuantRequest(self.weight_scheme, self.group_size, self.rounding, include, self.skip, self.smooth)

    @property
    def _activations(self) -> str | None:
        return SCHEMES[self.scheme].activations if self.scheme in SCHEMES else None

    def contradictions(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Settings of one scheme, and settings of a budget."""
        budget = self.max_bytes is not None or self.min_sqnr is not None
        for idle in _ONE_SCHEME if budget else _BUDGET:
            if getattr(self, idle):
                other = name("scheme") if budget else f"{name('max_bytes')} and {name('min_sqnr')}"
                yield idle, f"{name(idle)} only applies with {other}"
        if budget:
            if self.rounding == "gptq":
                yield "rounding", f"{name('rounding')} gptq fits values to one choice: it needs {name('scheme')}"
            if "ends" in self.include:
                yield "include", f"{name('include')} ends only applies to schemes with activations"
        elif self.scheme is not None:
            yield from self._of_scheme(name)
        yield from super().contradictions(name)

    def _of_scheme(self, name: Naming) -> Iterator[tuple[str, str]]:
        """Settings that the scheme has no use for, or can't be combined with."""
        scheme, alone = f"{name('scheme')} {self.scheme}", self.component == ("transformer",)
        try:
            scheme_of(str(self.scheme), self.group_size)
        except UsageError as error:
            yield "group_size", f"{name('group_size')} {self.group_size} is not for {self.scheme}: {error.hint}"
        if self.rounding == "gptq" and not alone:
            other = "quantize the other components in a separate run"
            yield "rounding", f"{name('rounding')} gptq works on the transformer only: {other}"
        if self._activations and not alone:
            yield "component", f"{scheme} is for the transformer; use a weight-only scheme for other components"
        if not self._activations:
            options: dict[str, object] = {"smoothing": self.smoothing, "activation_range": self.activation_range}
            options["include"] = "ends" in self.include
            for idle, value in options.items():
                if value:
                    shown = f"{name(idle)} ends" if idle == "include" else name(idle)
                    yield idle, f"{shown} only applies to activations, which {self.scheme} doesn't quantize"
        if self._activations == TOKEN and self.activation_range:
            yield "activation_range", f"{name('activation_range')} is for static scales: {self.scheme} has dynamic ones"
        if self._activations and str(self.scheme).startswith("fp8") and self.rounding:
            yield "rounding", f"{name('rounding')} {self.rounding}: {self.scheme} has one way to round"

    @property
    def calibration(self) -> CalibrationSettings:
        """The trajectories that activations and errors are measured on."""
        return CalibrationSettings(
            prompts=self.prompts,
            embeddings=self.embeddings,
            num_prompts=self.num_prompts,
            timesteps=self.timesteps,
            guidance=self.guidance,
            memory_limit=self.memory_limit,
            yes=self.yes,
            seed=self.seed,
            device=self.device,
            dry=self.dry_run,
        )
