"""Tests of sanac.export."""
