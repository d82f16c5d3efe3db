"""`load_checkpoint` of `resect.weights`, beside the models whose weights it loads."""

from resect.weights import load_checkpoint as load_checkpoint
