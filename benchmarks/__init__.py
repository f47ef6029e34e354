"""Measurements of the engine beside plainer ways to do the same, in the same run."""
