"""Lesions: run a network under many arrangements and say what each does to it."""
