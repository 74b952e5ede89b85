"""A small SANA that is real: built from diffusers' own classes."""
