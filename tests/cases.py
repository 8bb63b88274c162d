"""The one table of situations in which the layer is compared.

The dimensions make some 10^5 situations. For training, for inference and for a frozen
layer each, they are crossed pairwise: every value of every dimension meets every value
of every other one in at least one case (allpairspy, deterministic). What must be
refused stands at the end.
"""

import math
from dataclasses import dataclass
from itertools import chain

import keras
import numpy as np
from allpairspy import AllPairs

BACKEND = keras.backend.backend()

SHAPES = {
    2: (7, 5),
    3: (4, 6, 5),
    4: (3, 6, 4, 5),
    5: (2, 3, 4, 2, 5),
    6: (2, 3, 2, 3, 2, 4),
}
MODES = {
    "tensorflow": ("eager", "graph", "xla", "unknown-sizes"),
    "jax": ("eager", "graph"),
    "torch": ("eager",),
}[BACKEND]
# JAX computes in float64 only when the whole process is told to.
POLICIES = [
    "float32",
    "float64",
    "mixed_bfloat16",
    "mixed_float16",
    "bfloat16",
    "float16",
]
if BACKEND == "jax":
    POLICIES.remove("float64")

DIMENSIONS = {
    "shape_axis": [(SHAPES[n], a) for n in SHAPES for a in [*range(n), -1]],
    "affine": [(True, True), (True, False), (False, True), (False, False)],
    "mask": [None, "leading", "broadcast"],
    "renorm": [None, {}, {"rmin": 0.5, "rmax": 1.5, "dmax": 0.7}],
    "policy": POLICIES,
    "mode": list(MODES),
    "average": ["moving", "warmup", "cumulative"],
    "mean": [0.0, 3.0, 100.0],
}


@dataclass(frozen=True)
class Case:
    """One situation: the layer's arguments, its inputs, and how it is called."""

    number: int
    shape: tuple
    axis: int
    center: bool
    scale: bool
    mask: str | None
    call: str
    renorm: dict | None
    policy: str
    mode: str
    average: str
    mean: float

    @property
    def id(self):
        affine = {(1, 1): "", (1, 0): "-beta", (0, 1): "-gamma", (0, 0): "-plain"}
        renorm = {None: "", 0: "-renorm", 3: "-renormclip"}
        size = None if self.renorm is None else len(self.renorm)
        return (
            f"{self.number}-rank{len(self.shape)}-axis{self.axis}"
            f"{affine[self.center, self.scale]}{renorm[size]}"
            f"{'' if self.mask is None else '-' + self.mask}-{self.call}"
            f"-{self.policy}-{self.mode}-{self.average}-mean{self.mean:g}"
        )

    @property
    def arguments(self):
        """What both Keras' class and ours take."""
        renorm = {} if self.renorm is None else {"renorm_clipping": self.renorm}
        return {
            "axis": self.axis,
            "momentum": 0.9,
            "center": self.center,
            "scale": self.scale,
            "renorm": self.renorm is not None,
            "renorm_momentum": 0.8,
            "dtype": self.policy,
            **renorm,
        }

    @property
    def own_arguments(self):
        """What ours takes."""
        own = {
            "moving": {},
            "warmup": {"warmup": True},
            "cumulative": {"momentum": None},
        }
        return {**self.arguments, **own[self.average]}

    @property
    def channels(self):
        return self.shape[self.axis]

    @property
    def keras_can(self):
        """Whether Keras' layer computes this at all, or means the same by it.

        Its mask has the inputs' rank less one (D12); on torch it computes float64 in
        float32 (D17).
        """
        wide_torch = BACKEND == "torch" and self.policy == "float64"
        return self.mask != "broadcast" and not wide_torch

    def draw(self, steps):
        """The inputs, float64 but rounded to the layer's compute dtype."""
        rng = np.random.default_rng(self.number)
        dtype = keras.DTypePolicy(self.policy).compute_dtype
        spread = rng.uniform(0.5, 2, self.channels)
        along = [
            -1 if i == self.axis % len(self.shape) else 1
            for i, _ in enumerate(self.shape)
        ]
        x = rng.normal(size=(steps, *self.shape)) * spread.reshape(along) + self.mean
        x = rounded(x, dtype)
        dy = rounded(rng.normal(size=(steps, *self.shape)), dtype)
        gamma = rounded(rng.uniform(0.5, 1.5, self.channels), dtype)
        beta = rounded(rng.normal(size=self.channels), dtype)
        masks = [self._draw_mask(rng) for _ in range(steps)]
        return x, dy, gamma, beta, masks

    def _draw_mask(self, rng):
        if self.mask is None:
            return None
        if self.mask == "leading":
            shape = self.shape[:-1]
        else:  # of the inputs' rank, with every other size 1
            shape = tuple(n if i % 2 == 0 else 1 for i, n in enumerate(self.shape))
        mask = rng.random(shape) < 0.7
        mask.flat[0] = True
        return mask

    def full_mask(self, mask):
        """`mask` in the inputs' rank, for the oracle."""
        if mask is None or self.mask == "broadcast":
            return mask
        return mask[..., None]


def rounded(values, dtype):
    """Float64 values that `dtype` holds exactly."""
    return np.asarray(
        keras.ops.convert_to_numpy(
            keras.ops.cast(keras.ops.cast(values, dtype), "float32")
        )
        if dtype != "float64"
        else values,
        "f8",
    )


def _sensible(row):
    """Drop what cannot be: allpairspy asks about every beginning of a row."""
    case = dict(zip(DIMENSIONS, row, strict=False))
    # 16 bits do not hold a mean of 100 and a spread of 1 well enough to compare.
    narrow = "16" in case.get("policy", "")
    return not (narrow and case.get("mean") == 100.0)


def table():
    """Every pair while training; at inference what can matter there."""
    some = [
        (SHAPES[n], a) for n, a in [(2, 1), (3, -1), (3, 1), (4, -1), (4, 1), (5, 2)]
    ]
    plain = {**DIMENSIONS, "shape_axis": some, "mask": [None], "renorm": [None]}
    crossed = {"training": DIMENSIONS, "inference": plain, "frozen": plain}
    rows = chain.from_iterable(
        ((call, row) for row in AllPairs(list(d.values()), filter_func=_sensible))
        for call, d in crossed.items()
    )
    return [
        Case(number, *shape_axis, *affine, mask, call, *others)
        for number, (call, (shape_axis, affine, mask, *others)) in enumerate(rows)
    ]


CASES = table()
assert len(CASES) > 100, "the table of cases is empty or cut"

# (arguments, shape of the inputs, what the message must hold)
REFUSED = [
    ({"axis": 4}, (8, 32, 32, 3), r"axis=4.*\(8, 32, 32, 3\).*-4 to 3"),
    ({"axis": 1.7}, None, r"axis=1\.7.*integer"),
    ({"axis": "1"}, None, r"axis='1'.*integer"),
    ({"momentum": 1.5}, None, r"momentum=1\.5.*0 to 1"),
    ({"momentum": 1, "warmup": True}, None, r"momentum=1\.0, warmup=True.*no end"),
    (
        {"momentum": None, "warmup": True},
        None,
        r"momentum=None, warmup=True.*leave one",
    ),
    ({"epsilon": 0}, None, r"epsilon=0.*greater than 0"),
    ({"epsilon": "small"}, None, r"epsilon='small'.*greater than 0"),
    ({"renorm_momentum": 2}, None, r"renorm_momentum=2.*0 to 1"),
    ({"renorm_clipping": {"max": 1}}, None, r"'max'.*'rmin', 'rmax' and 'dmax'"),
    ({"renorm_clipping": {"dmax": -1}}, None, r"dmax must be.*at least 0"),
    (
        {"renorm": True, "renorm_clipping": {"rmax": 1, "rmin": 2}},
        None,
        r"'rmin': 2.*rmin must not be greater than rmax",
    ),
    ({}, (None, None), r"\(None, None\).*not known"),
    ({"axis": 1}, (2, None, 3), r"\(2, None, 3\).*not known"),
    ({"fuse": True}, None, r"fuse"),
    ({"axis": None}, None, r"axis=None.*integer"),
    ({"axis": True}, None, r"axis=True.*integer"),
    ({"epsilon": math.inf}, None, r"epsilon=inf.*greater than 0"),
    ({"momentum": "0.9"}, None, r"momentum='0\.9'.*0 to 1"),
    ({"momentum": True}, None, r"momentum=True.*0 to 1"),
    ({"renorm_clipping": 3}, None, r"renorm_clipping=3"),
    ({"renorm_momentum": None}, None, r"renorm_momentum=None.*0 to 1"),
    ({"virtual_batch_size": 0}, None, r"virtual_batch_size=0.*at least 1"),
    ({"virtual_batch_size": 2.5}, None, r"virtual_batch_size=2\.5.*integer"),
    ({"virtual_batch_size": 2, "axis": 0}, (4, 3), r"axis 0.*channels"),
    (
        {"virtual_batch_size": 2, "synchronized": True},
        None,
        r"synchronized=True, virtual_batch_size=2",
    ),
    ({"axis": []}, None, r"axis=\[\].*must name"),
    ({"axis": [1, -1]}, (2, 3), r"axis=\[1, -1\].*\(2, 3\).*twice"),
    ({"axis": [1, 4]}, (2, 3, 4), r"axis=\[1, 4\].*\(2, 3, 4\).*-3 to 2"),
    ({"axis": [1, 2]}, (2, None, 4), r"axis=\[1, 2\].*not known"),
]
