"""Tests of sanac.quantize."""
