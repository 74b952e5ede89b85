"""Silences diffusers and transformers while they load: real problems are raised as exceptions."""

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence diffusers and transformers, and import them for it: no progress bars, warnings or log lines."""
    with silent():
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        yield


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Silence warnings and log lines below errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
