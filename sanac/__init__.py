"""sanac makes SANA text-to-image checkpoints smaller and deployable, and keeps proof of what was lost."""

import importlib
from typing import Any

__version__ = "0.1.0"
_LAZY = dict.fromkeys(("load_pipeline", "load_transformer"), "sanac.runtime.pipeline")  # what takes torch to import
_LAZY |= dict.fromkeys(("open", "SanaModel", "Report"), "sanac.api")
_LAZY |= {"SanacError": "sanac.core.errors"}


def __getattr__(name: str) -> Any:
    """`sanac.load_pipeline`, without every import of sanac paying for it."""
    if name in _LAZY:
        from sanac.core.threads import configure_threads

        configure_threads()
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sanac' has no attribute {name!r}")
