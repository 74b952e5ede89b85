"""The shapes world, a synthetic task with known ground truth: scenes, captions, a detector. Pure numpy."""
