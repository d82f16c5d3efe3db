"""Runs: what was asked and what was found, as values and as folders."""
