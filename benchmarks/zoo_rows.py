"""All rows of the zoo: each module adds its own to two lists."""

import zoo_mistakes  # noqa: F401
import zoo_others  # noqa: F401
from zoo_networks import HEALTHY as HEALTHY
from zoo_networks import SICK as SICK

NETWORKS = [*HEALTHY, *SICK]
