"""A pruned network as others load it: `formats` is the way in, and every family of formats has a module."""
