"""Calibration from sums: what can be added up over batches, and over sites, instead of the activations themselves."""
