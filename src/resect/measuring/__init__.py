"""What every measurement shares: batches, memory, metrics, statistics, timing."""
