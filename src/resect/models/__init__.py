"""The paper's networks, and the specs by which models are named."""
