"""Schedules: which blocks run in which step of a training."""

from resect.network.schedules import NAMES as NAMES
from resect.network.schedules import FixedCount as FixedCount
from resect.network.schedules import Full as Full
from resect.network.schedules import Progressive as Progressive
from resect.network.schedules import Schedule as Schedule
from resect.network.schedules import StochasticDepth as StochasticDepth
from resect.network.schedules import named as named
