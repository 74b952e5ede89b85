"""Reading checkpoints: locating files, recognising layouts, opening tensors."""
