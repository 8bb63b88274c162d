"""What does `kbn.check` know before the training, on the networks of the zoo?

Each network of the zoo is checked once, as it is before its training: which lines fail,
by which diagnoses, in how many seconds, and whether the model has kept every bit. On a
healthy network a line that fails is a false finding. A sick one is found where a line
names a rule that fits, a note too; many an illness shows only in the training.

`--only TEXT` takes the networks with TEXT in their name, `--seed N` other data.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import reporting


def state(model):
    """All numbers of a model, its optimizer and its seeds."""
    held = [*model.variables, *(model.optimizer.variables if model.optimizer else ())]
    return [np.array(variable.value) for variable in held]


def judge(network, seed):
    """What a check of it finds."""
    import keras

    import kbn

    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model, data = network.build(), network.data(seed)
    before, begun = state(model), time.perf_counter()
    size = network.fit.get("batch_size", 32)
    found = kbn.check(model, data.x, data.y, batch_size=size, verbose=0)
    seconds = time.perf_counter() - begun
    pairs = zip(before, state(model), strict=True)
    return found, seconds, all(np.array_equal(a, b) for a, b in pairs)


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument("--only", metavar="TEXT", help="part of a network's name")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    chosen = parser.parse_args(arguments)
    from zoo_rows import NETWORKS

    networks = [one for one in NETWORKS if (chosen.only or "") in one.name]
    if not networks:
        parser.error(f"argument --only: {chosen.only!r} is in the name of no network")
    if chosen.quick:
        networks = [networks[0], next(one for one in networks if one.rules)]
    reporting.setting("tensorflow")
    table = reporting.Table("network", "expected", "failed", "notes", "s", "untouched")
    false, sick, named, caught, changed, all_seconds = 0, 0, 0, 0, 0, []
    for network in networks:
        found, seconds, is_same = judge(network, chosen.seed)
        graves = [x.rule for x in found.alerts if x.level != "info"]
        graves += [rule for x in found.alerts for rule in x.symptoms]
        notes = [x.rule for x in found.alerts if x.level == "info"]
        table.row(
            network.name,
            ", ".join(sorted(network.rules)) or "healthy",
            ", ".join(graves),
            ", ".join(notes),
            f"{seconds:.1f}",
            "yes" if is_same else "NO",
        )
        sys.stdout.flush()
        all_seconds.append(seconds)
        changed += not is_same
        if network.is_healthy:
            false += not found.ok
        else:
            sick += 1
            named += bool({*graves, *notes} & network.rules)
            caught += not found.ok
    print(
        f"\n{len(networks) - sick} healthy networks, {false} with a line that fails. "
        f"{sick} sick ones, {named} named by a rule that fits, {caught} with a line "
        f"that fails. {changed} were changed. Seconds: {np.median(all_seconds):.1f} in "
        f"the median, at most {max(all_seconds):.1f}."
    )
    return bool(false or changed)


if __name__ == "__main__":
    sys.exit(main())
