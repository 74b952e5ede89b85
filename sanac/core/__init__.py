"""Bytes, names and plans of SANA checkpoints. Nothing in here imports torch."""
