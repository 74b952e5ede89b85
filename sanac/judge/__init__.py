"""Judging generated images: detections, GenEval's rules, confidence intervals, distances between image sets."""
