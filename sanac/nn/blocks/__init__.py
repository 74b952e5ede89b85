"""The SANA forward pass as functions over tensors: embeddings, block, head."""
