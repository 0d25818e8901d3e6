"""Ablations: the same training with one thing changed, at equal data, steps and seeds, and a table of what it did."""
