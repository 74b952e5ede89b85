"""A small world whose truth is known: scenes of coloured shapes, captions, a detector. Pure numpy."""
