"""The unravelled view: how many paths of each length, and how much of the gradient they carry."""
