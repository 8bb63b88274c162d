"""Does the cure that an alert names work?

Each of the zoo's mistakes is a healthy training with one thing changed. It is trained
under a monitor; the remedy of its gravest diagnosis is applied, and it is trained again
from new weights, for as many epochs. Its bar: nine tenths of the way from guessing to
what its healthy sibling reaches in validation. "ask" is a remedy that no program can
apply.

`make cures` runs it on TensorFlow; KERAS_BACKEND names another backend. `--only TEXT`
takes the mistakes with TEXT in their name.
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import keras
import numpy as np
import reporting
import zoo

import kbn

QUICK = "diabetes, targets of 1e5"
AT_ONCE = 8  # of three trainings each, in a process
WAY, NOISE = 0.9, 0.03  # of the way to the bar; of it, what two trainings differ by


def treated(recipe, remedy, data):
    """The recipe and its data with the remedy applied; None where no program can."""
    change = CHANGES.get(remedy.kind)
    return None if change is None else change(recipe, remedy, data)


def _set_in_optimizer(recipe, remedy, data):
    name = "learning_rate" if remedy.kind == "learning_rate" else remedy.what

    def make():
        made = recipe.optimizer()
        config = made.get_config()
        if name in ("decay_steps", "boundaries"):
            config["learning_rate"]["config"][name] = remedy.new
        else:
            config[name] = remedy.new
        return type(made).from_config(config)

    return recipe.but(optimizer=make), data


def _set_in_fit(recipe, remedy, data):
    value = remedy.new
    if remedy.what == "class_weight":
        classes, counts = np.unique(data.y, return_counts=True)
        weights = len(data.y) / (len(classes) * counts)
        value = dict(zip(classes.tolist(), weights.tolist(), strict=True))
    return recipe.but(fit={remedy.what: value}), data


def _change_data(recipe, remedy, data):
    if remedy.what == "scale_targets":
        mean, scale = remedy.new
        y, y_val = ((y - mean) / scale for y in (data.y, data.y_val))
        return recipe.but(options={"last": None}), data._replace(y=y, y_val=y_val)
    axes = tuple(range(1, data.x.ndim))
    kept = np.isfinite(data.x).all(axis=axes) & np.isfinite(data.y)
    return recipe, data._replace(x=data.x[kept], y=data.y[kept])


def _rebuilt(recipe, change):
    """The recipe whose model goes through a function."""
    build = recipe.build
    return recipe.but(build=lambda **options: change(build(**options)))


def _cloned(recipe, remake):
    """The recipe with each layer made anew by `remake`, of a layer and its config."""

    def clone(layer):
        return remake(layer, layer.get_config())

    def change(model):
        return keras.models.clone_model(model, clone_function=clone)

    return _rebuilt(recipe, change)


def _set_in_layer(recipe, remedy, data):
    def remake(layer, config):
        if layer.name in remedy.where:
            config[remedy.what] = remedy.new
        return type(layer).from_config(config)

    return _cloned(recipe, remake), data


def _replace_layers(recipe, remedy, data):
    def remake(layer, config):
        if layer.name not in remedy.where:
            return type(layer).from_config(config)
        return kbn.BatchNorm(momentum=layer.momentum, warmup=True, name=layer.name)

    return _cloned(recipe, remake), data


def _insert(recipe, remedy, data):
    steps = -(-len(data.x) // recipe.fit.get("batch_size", 32))
    momentum = {"steps_per_epoch": steps} if steps > 3 else {"warmup": True}

    def with_batch_norm(model):
        return kbn.insert_batch_norm(model, **momentum)

    def normalized(model):
        first = keras.layers.Normalization()
        first.adapt(data.x)
        given = keras.Input(data.x.shape[1:])
        return keras.Sequential([given, first, *model.layers])

    known = {"BatchNorm": with_batch_norm, "Normalization": normalized}
    return _rebuilt(recipe, known[remedy.what]), data


CHANGES = {
    "learning_rate": _set_in_optimizer,
    "optimizer": _set_in_optimizer,
    "fit": _set_in_fit,
    "data": _change_data,
    "layer": _set_in_layer,
    "replace": _replace_layers,
    "insert": _insert,
}


def trained(recipe, data, seed, log_dir):
    """(score in validation, the report) of a training from new weights."""
    from kbn.callbacks import Report

    network = recipe.but(data=lambda seed: data).named("", "")
    reached = zoo.train(network, seed, log_dir)
    return score(reached[recipe.bar[0]], recipe, data), Report.read(log_dir)


def score(reached, recipe, data):
    """0 for guessing, 1 for a perfect one: of the accuracy, or of the loss."""
    if recipe.bar[0] == "accuracy":
        _, counts = np.unique(data.y_val, return_counts=True)
        guess = counts.max() / counts.sum()
        return (reached - guess) / (1 - guess)
    guess = np.mean((data.y_val - data.y.mean()) ** 2)
    return 1 - reached / guess if np.isfinite(reached) else -np.inf


@dataclasses.dataclass(frozen=True)
class Cure:
    """What became of one mistake."""

    name: str
    diagnosis: str = "none"
    others: int = 0  # more diagnoses that were open
    remedy: str = ""
    kind: str = ""
    healthy: float = 0.0
    sick: float = 0.0
    cured: float | None = None  # None where no program can
    verdict: str = ""

    @property
    def bar(self):
        """The score by which it is cured."""
        return WAY * self.healthy

    @property
    def works(self):
        """Whether the cured one reaches its bar."""
        return self.cured is not None and self.cured >= self.bar

    @property
    def is_worse(self):
        """Whether it is worse than untreated, by more than two trainings differ."""
        return self.cured is not None and self.cured < self.sick - NOISE


def cure(job):
    """Of (name, seed)."""
    from zoo_mistakes import MISTAKES

    name, seed = job
    recipe, sibling = MISTAKES[name]
    with tempfile.TemporaryDirectory() as place:
        healthy, _ = trained(sibling, sibling.data(seed), seed, f"{place}/healthy")
        data = recipe.data(seed)
        sick, report = trained(recipe, data, seed, f"{place}/sick")
        diagnoses = [x for x in report.open_alerts if x.level != "info"]
        if not diagnoses:
            return Cure(name, healthy=healthy, sick=sick)
        first, *others = diagnoses
        found = Cure(
            name,
            first.rule,
            len(others),
            str(first.remedy),
            first.remedy.kind if first.remedy else "ask",
            healthy,
            sick,
        )
        made = treated(recipe, first.remedy, data) if first.remedy else None
        if made is None:
            return found
        cured, report = trained(*made, seed, f"{place}/cured")
        return dataclasses.replace(found, cured=cured, verdict=report.verdict)


def main(arguments=None):
    from zoo_mistakes import MISTAKES

    parser = reporting.parser(__doc__)
    parser.add_argument("--only", type=reporting.part_of(MISTAKES), metavar="TEXT")
    whole = reporting.whole(1)
    parser.add_argument("--seeds", type=whole, default=1, metavar="N")
    parser.add_argument("--processes", type=whole, default=zoo.PROCESSES, metavar="N")
    chosen = parser.parse_args(arguments)
    names = [name for name in MISTAKES if (chosen.only or "") in name]
    names = [QUICK] if chosen.quick else names
    jobs = [(name, seed) for name in names for seed in range(chosen.seeds)]
    begun = time.perf_counter()
    reporting.setting(keras.backend.backend())
    table = reporting.Table(
        "mistake", "diagnosis", "remedy", "healthy", "sick", "cured", "verdict after it"
    )
    found = []
    for one in zoo.done(cure, jobs, chosen.processes, AT_ONCE):
        found.append(one)
        table.row(
            one.name,
            one.diagnosis + (f" and {one.others} more" if one.others else ""),
            one.remedy,
            f"{one.healthy:.2f}",
            f"{one.sick:.2f}",
            one.kind
            if one.cured is None
            else f"{one.cured:.2f}{'' if one.works else ' (below its bar)'}",
            one.verdict.partition(" ")[0],
        )
    return summary(found, time.perf_counter() - begun)


def summary(found, seconds):
    """Print the counts; whether one got worse, or fewer than 80 % are cured."""
    tried = [one for one in found if one.cured is not None]
    works = sum(one.works for one in tried)
    worse = [one.name for one in tried if one.is_worse]
    asked = sum(one.kind == "ask" for one in found)
    healthy = sum(one.verdict.startswith("Healthy") for one in tried)
    more = sum(one.others > 0 for one in found)
    print(
        f"\n{len(found)} mistakes: {works} of {len(tried)} that a program can treat "
        f"reach their bar, {healthy} are called healthy then, {len(worse)} are worse "
        f"than untreated ({', '.join(worse) or 'none'}); {asked} ask for a person, "
        f"{more} have a second diagnosis. {seconds:.0f} s."
    )
    return bool(worse) or works < 0.8 * len(tried)


if __name__ == "__main__":
    sys.exit(main())
