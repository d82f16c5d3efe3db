"""Run folders: work that is kept piece by piece, and goes on where it stopped."""
