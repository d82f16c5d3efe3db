"""What depth pruning needs to know: which blocks matter, and by which measure."""
