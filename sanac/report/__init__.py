"""Measurements, for people and for the machines around them."""
