"""The paper's questions, put to one network."""
