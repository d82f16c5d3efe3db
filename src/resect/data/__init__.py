"""Data sets, held in memory, and the specs by which they are named."""

from resect.data.samples import Samples
from resect.data.specs import load_samples

__all__ = ["Samples", "load_samples"]
