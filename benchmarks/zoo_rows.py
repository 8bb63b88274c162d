"""All rows of the zoo: each module adds its own to two lists."""

import zoo_mistakes  # noqa: F401
import zoo_others  # noqa: F401
from zoo_networks import HEALTHY as HEALTHY
from zoo_networks import SICK as SICK
from zoo_steps import IS_JAX

NETWORKS = [one for one in [*HEALTHY, *SICK] if not (IS_JAX and one.by_hand)]
