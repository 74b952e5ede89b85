"""The bundled model sanac:tiny: a small SANA pipeline of diffusers' own classes, and its training."""

from sanac.nn.silence_libraries import quiet

with quiet():  # the modules of this package import diffusers and transformers, which warn while they load
    from diffusers import SanaPipeline as _SanaPipeline  # noqa: F401
