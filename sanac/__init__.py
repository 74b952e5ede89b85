"""sanac makes SANA text-to-image checkpoints smaller and deployable, and keeps proof of what was lost."""

__version__ = "0.1.0"
