"""From any PyTorch model to joins and slices; the only layer that knows ATen."""
