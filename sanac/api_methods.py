"""Every verb as a method: its keywords, defaults and documentation come from the verb's settings.

Types for editors and type checkers are in api_methods.pyi, which `make generate` writes from the same settings.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

from sanac.core.settings import Setting, settings_of
from sanac.verbs import VERBS, Verb

HIDDEN = ("workspace",)  # of the model that sanac.open returned
NOT_METHODS = ("judge samples", "judge train", "ls", "clean", "doctor")


def keyword_settings(verb: Verb) -> list[Setting]:
    """The settings that are keywords of a method, required ones first."""
    known = [one for one in settings_of(verb.settings_class()).values() if one.name not in HIDDEN]
    return sorted(known, key=lambda one: not one.required)


def documentation(verb: Verb) -> str:
    """The docstring of a method: the help of the verb and a line for each setting."""
    lines = [inspect.cleandoc(verb.settings_class().__doc__ or ""), "", "Settings:"]
    for one in keyword_settings(verb):
        notes = [f"one of {', '.join(one.choices)}"] if one.choices else []
        notes += [one.range_shown] if one.range_shown else []
        notes += ["required"] if one.required else []
        notes += [f"default: {one.default_shown}"] if one.default_shown else []
        lines.append(f"    {one.name}: {one.option.help}" + (f"  [{'; '.join(notes)}]" if notes else ""))
    return "\n".join(lines)


def signature(verb: Verb) -> inspect.Signature:
    """The signature of a method: positional settings, then keywords."""
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)]
    if verb.models == "several":
        parameters.append(inspect.Parameter("models", inspect.Parameter.VAR_POSITIONAL))
    for one in keyword_settings(verb):
        if one.option.positional:
            parameters.append(inspect.Parameter(one.name, inspect.Parameter.VAR_POSITIONAL))
        else:
            default = inspect.Parameter.empty if one.required else one.default
            parameters.append(inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=default))
    return inspect.Signature(parameters)


def _method(verb: Verb) -> Callable[..., Any]:
    positional = [one.name for one in keyword_settings(verb) if one.option.positional]

    def method(self: Any, *values: Any, **settings: Any) -> Any:
        others: tuple[Any, ...] = ()
        if positional and values:
            settings[positional[0]] = values
        elif verb.models == "several":
            others = values
        elif values:
            raise TypeError(f"{verb.name}() takes keywords only")
        return self.call(verb, settings, others)

    method.__name__ = verb.name
    method.__qualname__ = f"SanaModel.{verb.name}"
    method.__doc__ = documentation(verb)
    cast("Any", method).__signature__ = signature(verb)
    return method


class VerbMethods:
    """The verbs that work on a model."""

    def call(self, verb: Verb, settings: dict[str, Any], others: Sequence[Any] = ()) -> Any:
        """Run a verb on this model, and on others for a verb of several models."""
        raise NotImplementedError


for _verb in VERBS.values():
    if _verb.name not in NOT_METHODS:
        setattr(VerbMethods, _verb.name, _method(_verb))
