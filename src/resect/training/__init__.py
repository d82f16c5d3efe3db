"""Train small networks, resumable to the bit."""
