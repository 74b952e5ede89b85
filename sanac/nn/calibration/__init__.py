"""Calibration: prompts, text encoding, latents, sampling, and the states that it yields."""
