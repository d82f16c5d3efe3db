"""The unravelled network: its blocks, its arrangements, and running it under any of them."""
