"""Where weights used to be loaded; they are in `resect.weights`, below the layer of models, now."""

from resect.weights import load_checkpoint as load_checkpoint
