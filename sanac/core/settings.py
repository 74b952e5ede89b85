"""Settings of a verb, declared once: a frozen dataclass whose annotations carry help, bounds and choices.

The command line, recipes, keyword arguments, the JSON Schema of recipes and the tables in docs/ all read the same
declaration, and all validation errors are raised here.
"""

import contextlib
import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, cast, get_args, get_origin

from sanac.core.errors import UsageError
from sanac.core.units import parse_bytes

ADVANCED, COMMON = "Advanced options", "Common options"  # groups of what is rarely needed, and of every command
S = TypeVar("S", bound="Settings")
Naming = Callable[[str], str]  # a setting's name as its user knows it: --num-prompts, prune.num_prompts

_LARGEST = 1e300


class Size(int):
    """A number of bytes, written as 500MB or 5GB."""


class ModelRef(str):
    """A model: a folder, a file, a hub id, an artifact or sanac:tiny."""

    __slots__ = ()


class LoraRef(str):
    """A LoRA file, with :SCALE or without."""

    __slots__ = ()


class DataRef(str):
    """A folder of training data, or the word `shapes`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Option:
    """Metadata of a setting that its type doesn't express."""

    help: str
    metavar: str | None = None
    default_text: str | None = None  # where the default is decided later: 'a tenth of --steps'
    ge: float | None = None
    le: float | None = None
    gt: float | None = None
    lt: float | None = None
    choices: tuple[str, ...] = ()  # where the choices come from a table of the package
    check: Callable[[Any], object] | None = None  # raises UsageError for a value that can't be read
    affects_result: bool = True  # False: not part of a recipe stage's content key
    recipe: bool = True  # whether a recipe may set it
    recipe_default: str | None = None  # of a required setting, in recipes
    positional: bool = False  # an argument of the command line, not an option
    comma: bool = False  # one word may hold several values: torch,onnx
    aliases: tuple[str, ...] = ()  # earlier names, still accepted
    stored: str | None = None  # its name in content keys, where it was renamed
    group: str | None = None  # title of its group in help, where it isn't that of its class


@dataclass(frozen=True)
class Setting:
    """A field of a settings class, resolved."""

    name: str
    kind: type
    many: bool
    choices: tuple[str, ...]
    option: Option
    default: Any
    group: str  # title of its group in help

    @property
    def required(self) -> bool:
        """Whether the dataclass has no default for it."""
        return self.default is dataclasses.MISSING

    @property
    def flag(self) -> str:
        """The option of the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def default_shown(self) -> str:
        """The default for help and docs; empty where there is none worth showing."""
        if self.option.default_text:
            return self.option.default_text
        if self.required or self.default is None or self.default is False or self.default == ():
            return ""
        if self.many:
            return ",".join(map(str, self.default))
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default)

    @property
    def range_shown(self) -> str:
        """The bounds for help and docs: '1 to 1000', 'above 0'; empty where there are none."""
        low, high, above, below = (
            None if limit is None else f"{int(limit):,}" if float(limit).is_integer() else f"{limit:g}"
            for limit in (self.option.ge, self.option.le, self.option.gt, self.option.lt)
        )
        parts = [f"above {above}"] if above else []
        parts += [f"{low} to {high}"] if low and high else [f"at least {low}"] if low else []
        parts += [f"at most {high}"] if high and not low else []
        parts += [f"below {below}"] if below else []
        return ", ".join(parts)

    def convert(self, value: Any, *, text: bool = False) -> Any:
        """`value` converted to the setting's type; UsageError completes a sentence that begins with the name.

        `text`: the value was typed on a command line, so numbers are read from it.
        """
        if value is None and not self.required:
            return None if not self.many else ()
        if not self.many:
            return self._one(value, text=text)
        parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if self.option.comma:
            split = [part.split(",") if isinstance(part, str) else [part] for part in parts]
            parts = [part.strip() if isinstance(part, str) else part for group in split for part in group]
        if not parts or any(part == "" for part in parts):
            raise UsageError("names nothing")
        if self.option.comma and (twice := [part for part in parts if parts.count(part) > 1]):
            raise UsageError(f"names {twice[0]!r} twice")
        return tuple(dict.fromkeys(self._one(part, text=text or self.option.comma) for part in parts))

    def _one(self, value: Any, *, text: bool) -> Any:
        found = _READERS[self.kind](value, text)
        if self.choices and found not in self.choices:
            raise UsageError(f"is {found!r}, not one of {', '.join(self.choices)}{did_you_mean(found, self.choices)}")
        if isinstance(found, int | float) and not isinstance(found, bool):
            self._bounds(found)
        if self.option.check:
            self.option.check(found)
        return found

    def _bounds(self, value: float) -> None:
        option = self.option
        if option.ge is not None and value < option.ge:
            raise UsageError(f"is {value:g}: at least {option.ge:g}")
        if option.gt is not None and value <= option.gt:
            raise UsageError(f"is {value:g}: above {option.gt:g}")
        if option.le is not None and value > option.le:
            raise UsageError(f"is {value:g}: at most {option.le:g}")
        if option.lt is not None and value >= option.lt:
            raise UsageError(f"is {value:g}: below {option.lt:g}")


def _whole(value: Any, text: bool) -> int:  # noqa: FBT001 (called through a table)
    if text and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UsageError(f"is {value!r}, not a whole number")
    return value


def _number(value: Any, text: bool) -> float:  # noqa: FBT001
    if text and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise UsageError(f"is {value!r}, not a number")
    return float(value)


def _flag(value: Any, _text: bool) -> bool:  # noqa: FBT001
    if not isinstance(value, bool):
        raise UsageError(f"is {value!r}, not true or false")
    return value


def _text(value: Any, _text: bool) -> str:  # noqa: FBT001
    if not isinstance(value, str) or not value:
        raise UsageError(f"is {value!r}, not a text")
    return value


def _printable(value: Any, what: str) -> str:
    shown = str(value) if isinstance(value, Path) else value
    if not isinstance(shown, str) or not shown or "\0" in shown:
        raise UsageError(f"is {value!r}, not {what}")
    return shown


def _size(value: Any, _text: bool) -> Size:  # noqa: FBT001
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return Size(value)
    try:
        return Size(parse_bytes(value))
    except (UsageError, TypeError):
        raise UsageError(f"is {value!r}, not a size such as '2GB'") from None


def _model(value: Any, _text: bool) -> ModelRef:  # noqa: FBT001
    path = getattr(value, "path", value)  # a model that sanac.open returned
    return ModelRef(_printable(path, "a model"))


_READERS: dict[type, Callable[[Any, bool], Any]] = {
    int: _whole,
    float: _number,
    bool: _flag,
    str: _text,
    Path: lambda value, _: Path(_printable(value, "a path")),
    Size: _size,
    ModelRef: _model,
    LoraRef: lambda value, _: LoraRef(_printable(value, "a file, with :SCALE or without")),
    DataRef: lambda value, _: DataRef(_printable(value, "a folder or 'shapes'")),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every verb's settings. The docstring of a subclass is its help."""

    TITLE: ClassVar[str] = "Options"  # of the group that its own settings form in help and docs
    ONE_OF: ClassVar[tuple[tuple[str, ...], ...]] = ()  # exactly one of each group has to be set
    EXAMPLES: ClassVar[tuple[str, ...]] = ()

    typed: frozenset[str] = field(default=frozenset(), compare=False, repr=False)  # names that the user set

    def contradictions(self, _name: Naming) -> Iterator[tuple[str, str]]:
        """(setting, complaint) for settings that are valid alone but contradict each other."""
        return iter(())

    def check(self) -> None:
        """Raise UsageError with all contradictions, in the words of the command line."""
        check(self, flag_name)


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Settings):
    """Where a verb computes."""

    TITLE: ClassVar[str] = COMMON

    device: Annotated[str | None, Option("cpu, cuda or cuda:N.", "NAME", "the best that is available")] = None


@dataclass(frozen=True, kw_only=True)
class SeedSettings(Settings):
    """The seed of everything random."""

    TITLE: ClassVar[str] = COMMON

    seed: Annotated[int, Option("Seed of everything random.", "N", ge=0, le=2**40)] = 0


@dataclass(frozen=True, kw_only=True)
class RunSettings(SeedSettings, DeviceSettings):
    """Where a verb computes, and the seed of everything random."""


def settings_of(settings: type[Settings]) -> Mapping[str, Setting]:
    """The settings of a class by name: own ones first, then inherited ones, in the order of declaration."""
    return _settings_of(cast("Hashable", settings))


@functools.cache
def _settings_of(settings: Any) -> Mapping[str, Setting]:
    hints = typing.get_type_hints(settings, include_extras=True)
    known = {one.name: one for one in dataclasses.fields(settings)}
    found: dict[str, Setting] = {}
    for owner in settings.__mro__:
        for name in vars(owner).get("__annotations__", {}):
            if name in known and name not in found and get_origin(hints[name]) is Annotated:
                base, *meta = get_args(hints[name])
                option = next(one for one in meta if isinstance(one, Option))
                kind, many, choices = _resolve(base)
                choices = choices or option.choices
                group = option.group or vars(owner).get("TITLE", Settings.TITLE)
                found[name] = Setting(name, kind, many, choices, option, known[name].default, group)
    return types.MappingProxyType(found)


def _resolve(kind: Any) -> tuple[type, bool, tuple[str, ...]]:
    """(the plain type, whether there may be several, choices)."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = [one for one in get_args(kind) if one is not type(None)]
    many = get_origin(kind) is tuple
    if many:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return str, many, get_args(kind)
    assert kind in _READERS, kind
    return kind, many, ()


def canonical_name(settings: type[Settings], name: str) -> str:
    """The present name of a setting that was renamed; the name itself otherwise."""
    aliases = {old: one.name for one in settings_of(settings).values() for old in one.option.aliases}
    return aliases.get(name, name)


def problems_of(
    settings: type[Settings],
    values: Mapping[str, Any],
    naming: Naming = str,
    *,
    recipe: bool = False,
    text: bool = False,
) -> Iterator[tuple[str, str]]:
    """(key, complaint) for every value that isn't one; unknown names are told with the nearest known one."""
    known = settings_of(settings)
    for key, value in values.items():
        setting = known.get(canonical_name(settings, key))
        if setting is None or (recipe and not setting.option.recipe):
            open_names = [name for name, one in known.items() if one.option.recipe or not recipe]
            yield key, f"there is no setting {naming(key)!r}{did_you_mean(key, open_names)}"
            continue
        try:
            setting.convert(value, text=text)
        except UsageError as error:
            yield key, f"{naming(key)} {error.message}"


def missing_of(
    settings: type[Settings], given: Sequence[str], naming: Naming = str, *, recipe: bool = False
) -> Iterator[tuple[str, str]]:
    """(key, complaint) for required settings that weren't given, and for groups of which exactly one has to be."""
    names = {canonical_name(settings, name) for name in given}
    for setting in settings_of(settings).values():
        optional = recipe and setting.option.recipe_default is not None
        if setting.required and not optional and setting.name not in names:
            yield setting.name, f"{naming(setting.name)} is required"
    for group in settings.ONE_OF:
        found = [naming(name) for name in group if name in names]
        choices = ", ".join(map(naming, group))
        if not found:
            yield group[0], f"one of {choices} is required"
        elif len(found) > 1:
            yield group[0], f"{' and '.join(found)} contradict each other: give one of {choices}"


def build(settings: type[S], values: Mapping[str, Any], naming: Naming = str, *, text: bool = False) -> S:
    """The settings of these values; raises UsageError with every complaint about them."""
    given = {key: value for key, value in values.items() if value is not None}
    found = [complaint for _, complaint in problems_of(settings, given, naming, text=text)]
    off = [key for key, value in given.items() if value is False]
    found += [complaint for _, complaint in missing_of(settings, [key for key in given if key not in off], naming)]
    if found:
        raise UsageError(found[0], problems=found)
    known = settings_of(settings)
    renamed = {canonical_name(settings, key): value for key, value in given.items()}
    converted = {name: known[name].convert(value, text=text) for name, value in renamed.items()}
    made = settings(**converted, typed=frozenset(renamed))
    check(made, naming)
    return made


def recipe_defaults(settings: type[Settings]) -> dict[str, str]:
    """Defaults in recipes of settings that are required elsewhere."""
    found = {name: one.option.recipe_default for name, one in settings_of(settings).items()}
    return {name: value for name, value in found.items() if value is not None}


def check(settings: Settings, naming: Naming = str) -> None:
    """Raise UsageError with all contradictions of some settings."""
    if found := [complaint for _, complaint in settings.contradictions(naming)]:
        raise UsageError(found[0], problems=found)


def flag_name(name: str) -> str:
    """'num_prompts' -> '--num-prompts'."""
    return f"--{name.replace('_', '-')}"


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """': did you mean X?' where one of the known names is close; empty otherwise."""
    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f": did you mean {close[0]!r}?" if close else ""


def json_schema(settings: type[Settings]) -> dict[str, Any]:
    """The JSON Schema of a recipe's table for these settings."""
    known = {name: one for name, one in settings_of(settings).items() if one.option.recipe}
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _schema(one) for name, one in known.items()},
    }
    if required := [name for name, one in known.items() if one.required and one.option.recipe_default is None]:
        schema["required"] = required
    return schema


_JSON_TYPES: dict[type, Any] = {int: "integer", float: "number", bool: "boolean", Size: ["string", "integer"]}


def _schema(setting: Setting) -> dict[str, Any]:
    one: dict[str, Any] = {"type": _JSON_TYPES.get(setting.kind, "string")}
    if setting.choices and not setting.option.comma:
        one["enum"] = list(setting.choices)
    bounds = {"minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt"}
    one |= {key: limit for key, name in bounds.items() if (limit := getattr(setting.option, name)) is not None}
    if setting.many:
        several = {"type": "array", "items": one, "minItems": 1}
        alone = {"type": "string"} if setting.option.comma else one
        one = {"anyOf": [alone, several]}
    one["description"] = setting.option.help
    if not setting.required and isinstance(setting.default, int | float | str) and setting.default is not False:
        one["default"] = setting.default
    return one


def docs_table(settings: type[Settings]) -> str:
    """A Markdown table of all options: command line, recipe key, default and range, help."""
    rows = ["| option | in a recipe | default | |", "|---|---|---|---|"]
    for one in settings_of(settings).values():
        name = one.option.metavar or one.name.upper() if one.option.positional else f"`{one.flag}`"
        in_recipe = f"`{one.name}`" if one.option.recipe else ""
        choices = f" One of {', '.join(one.choices)}." if one.choices else ""
        bounds = f" ({one.range_shown})" if one.range_shown else ""
        rows.append(f"| {name} | {in_recipe} | {one.default_shown} | {one.option.help}{choices}{bounds} |")
    return "\n".join(rows)
