"""The bundled model sanac:tiny: a small SANA pipeline of diffusers' own classes, and its training."""
