"""Training: the loop, optimizers, EMA, checkpoints, memory."""
