"""Plans: the arrangements that a sweep runs."""

from resect.sweep.plans import Plan as Plan
from resect.sweep.plans import bypassed as bypassed
from resect.sweep.plans import explicit as explicit
from resect.sweep.plans import orders as orders
from resect.sweep.plans import pairs as pairs
from resect.sweep.plans import parallel as parallel
from resect.sweep.plans import random as random
from resect.sweep.plans import random_repeated as random_repeated
from resect.sweep.plans import repeated as repeated
from resect.sweep.plans import reversed as reversed
from resect.sweep.plans import shuffled as shuffled
from resect.sweep.plans import single as single
from resect.sweep.plans import skips as skips
from resect.sweep.plans import windows as windows
