"""Reading checkpoints: where they are, which layout they have, their tensors."""
