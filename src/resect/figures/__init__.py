"""Every figure, drawn from data frames and plain values; results and reports call the same functions."""
