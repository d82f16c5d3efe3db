"""The face of every kind of run: terminal, figures and page, from its record."""
