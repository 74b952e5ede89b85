"""The SANA forward of our own, in torch: blocks as functions over tensors."""
