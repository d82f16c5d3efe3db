# The public names and where they live; each is imported when it is first used (see `__init__.py`).

from . import plans as plans
from . import schedules as schedules
from ._front import ensemble as ensemble
from ._front import fair_shares as fair_shares
from ._front import first_order as first_order
from ._front import lesion as lesion
from ._front import participation as participation
from ._front import path_energy as path_energy
from ._front import path_spectrum as path_spectrum
from ._front import path_squares as path_squares
from ._front import sample_paths as sample_paths
from ._front import scores as scores
from ._front import shapley as shapley
from ._front import strongest_paths as strongest_paths
from .allocator import keep_freed_memory as keep_freed_memory
from .data.samples import Samples as Samples
from .data.specs import load_samples as load_samples
from .errors import AccuracyError as AccuracyError
from .errors import ArrangementError as ArrangementError
from .errors import CheckpointError as CheckpointError
from .errors import DataError as DataError
from .errors import ExportError as ExportError
from .errors import InputError as InputError
from .errors import ResectError as ResectError
from .errors import RunError as RunError
from .errors import SpecError as SpecError
from .graph.decisions import Variant as Variant
from .jobs.compare import compare as compare
from .jobs.evaluate import evaluate as evaluate
from .jobs.study import study as study
from .jobs.train import train as train
from .models.specs import load_model as load_model
from .network.arrangement import Arrangement as Arrangement
from .network.blocks import Block as Block
from .network.entrance import unravel as unravel
from .network.scheduled import Scheduled as Scheduled
from .network.unraveled import Unraveled as Unraveled
from .paths.energy import PathEnergy as PathEnergy
from .paths.fair import FairShares as FairShares
from .paths.first_order import FirstOrder as FirstOrder
from .paths.gram import Gram as Gram
from .paths.participation import Participation as Participation
from .paths.sampled import PathDraws as PathDraws
from .paths.settings import PathSettings as PathSettings
from .paths.spectrum import PathSpectrum as PathSpectrum
from .paths.squares import PathSquares as PathSquares
from .paths.strongest import StrongPaths as StrongPaths
from .pruning.scores import Scores as Scores
from .runs.record import Record as Record
from .sweep.ensemble import EnsembleResult as EnsembleResult
from .sweep.result import LesionResult as LesionResult
from .sweep.settings import LesionSettings as LesionSettings
from .sweep.shapley import ShapleyResult as ShapleyResult

__version__: str
__all__: list[str]
