"""Engines run pieces of work, and keep what they find in a store."""
