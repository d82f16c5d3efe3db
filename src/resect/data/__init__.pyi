from .samples import Samples as Samples
from .specs import load_samples as load_samples
