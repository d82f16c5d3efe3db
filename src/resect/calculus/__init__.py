"""The derivatives of operators, as linear maps on many lanes at once."""
