"""The oldest versions of diffusers and transformers that this package accepts, and the commands that install extras.

Older ones run Python that lies in a model's folder. pip keeps to the same bounds, which are pyproject.toml's; an
environment may have been changed since.
"""

import re
from functools import cache
from importlib import metadata
from pathlib import Path

from sanac.core.errors import MissingResource

LOADERS = ("diffusers", "transformers")
_BOUND = re.compile(r"([\w-]+)>=([\d.]+)")


@cache
def check_loaders() -> None:
    """MissingResource, with the command that upgrades them, if a loader is older than it may be."""
    old = {name: least for name, least in bounds().items() if _numbers(metadata.version(name)) < _numbers(least)}
    if old:
        problems = [f"{name} {metadata.version(name)} is older than {least}" for name, least in old.items()]
        wanted = " ".join(f'"{name}>={least}"' for name, least in old.items())
        why = f"{problems[0]}: such versions run Python that lies in a model's folder"
        raise MissingResource(
            "the installed libraries are too old", why=why, problems=problems, hint=f"pip install --upgrade {wanted}"
        )


def install_command(extra: str) -> str:
    """The pip command that installs the packages of an extra; works for a checkout and for a wheel alike.

    It names the packages: sanac isn't on PyPI. In a checkout that runs without being installed, it names the checkout.
    """
    marker = f'extra == "{extra}"'
    wanted = [text.partition(";")[0].strip() for text in _declared() if marker in text]
    if wanted:
        return f"pip install {' '.join(map(repr, wanted))}"
    checkout = Path(__file__).resolve().parents[2]
    return f"pip install '{checkout if (checkout / 'pyproject.toml').is_file() else 'sanac'}[{extra}]'"


def bounds() -> dict[str, str]:
    """The lower bound of each loader, as this package declares it; none where it runs without being installed."""
    found = (_BOUND.match(text) for text in _declared())
    return {match[1]: match[2] for match in found if match and match[1] in LOADERS}


def _declared() -> tuple[str, ...]:
    """The requirements of this package; none where it runs without being installed."""
    try:
        return tuple(metadata.requires("sanac") or ())
    except metadata.PackageNotFoundError:
        return ()


def _numbers(version: str) -> tuple[int, ...]:
    """The release part of a version, without trailing zeros: '5.0.0.dev1' and '5' are (5,)."""
    release = re.match(r"[\d.]*", version)
    numbers = [int(part) for part in (release[0] if release else "").split(".") if part]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
