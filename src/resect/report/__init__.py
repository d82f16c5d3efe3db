"""Figures, page and tables, drawn from a finished study."""
