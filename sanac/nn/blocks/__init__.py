"""The SANA forward, block by block, as functions over tensors."""
