from .samples import Samples as Samples
from .samples import SampleSet as SampleSet
from .specs import load_samples as load_samples
