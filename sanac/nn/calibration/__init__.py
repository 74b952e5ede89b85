"""Calibration: prompts, latents, sampling, and the states between blocks."""
