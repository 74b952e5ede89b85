"""SANA checkpoints without torch: tensor names, file formats, block plans, and artifacts as they are written."""
