"""Do the rules name what is wrong with a network, and nothing else?

Trains the zoo, small networks on scikit-learn's digits and on made data, some healthy
and some each with an illness that is built in, and reads the alerts from their logs. A
healthy network reaches its bar in evaluation mode, or the training does not count; an
alert of level warning or critical on one is a false alarm. A sick network is to be
named by a rule that fits; second diagnoses and opposite advice are counted. Then the
margin of each rule: how far the worst healthy network stays from the limit, and how far
the mildest sick one is beyond it, both after the rule's patience; 1 is the limit.

`make zoo` runs it on TensorFlow; KERAS_BACKEND names another backend. `--only TEXT`
takes the networks with TEXT in their name, `--seeds N` so many seeds; `--logs DIR`
keeps the logs, and does not train again what is there.
"""

import itertools
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parent))

import keras
import reporting

import kbn
from kbn.callbacks.alerts.follow import Follower
from kbn.callbacks.signals.default import DEFAULT
from kbn.callbacks.signals.rule import Rule

SEEDS, PROCESSES = 3, 2
FALSE = ("warning", "critical")
# More trainings than this leave gigabytes of graphs in a process.
AT_ONCE = 24


class Measured(Rule):
    """A rule that notes how near each look came to its limit."""

    reads = ()

    def __init__(self, rule):
        self.rule = rule
        self.name, self.reads, self.keeps = rule.name, rule.reads, rule.keeps
        self.is_of_model, self.patience = rule.is_of_model, rule.patience
        self.reads_broken = rule.reads_broken
        self.worst = 0.0, "", 0.0, 0.0  # severity, where, value, limit
        self._last = {}

    def readings(self, view):
        """As the rule's own."""
        for reading in self.rule.readings(view):
            self._note(reading, view.step)
            yield reading

    def suspicions(self, view):
        """As the rule's own."""
        return self.rule.suspicions(view)

    def explain(self, reading, view):
        """As the rule's own."""
        return self.rule.explain(reading, view)

    def _note(self, reading, step):
        where = "" if self.is_of_model else reading.where
        last = self._last.setdefault(where, deque())
        last.append((step, severity(reading)))
        while len(last) > 1 and step - last[1][0] + 1 >= self.patience:
            last.popleft()
        lowest = min(share for _, share in last)
        is_long = step - last[0][0] + 1 >= self.patience
        if is_long and lowest > self.worst[0]:
            self.worst = lowest, reading.where, reading.value, reading.limit


def severity(reading):
    """Value beside limit, above 1 where it is ill."""
    if not reading.below:
        return reading.value / reading.limit if reading.limit else 99.0 * reading.is_ill
    return reading.limit / reading.value if reading.value > 0 else 99.0


def train(network, seed, log_dir):
    """Train it under a monitor; what it reaches in evaluation mode."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model, data = network.build(), network.data(seed)
    monitor = kbn.callbacks.TrainingMonitor(log_dir, log_freq=network.log_freq)
    validation = data.x_val, data.y_val
    fit = {"verbose": 0, "validation_data": validation, **network.fit}
    log = logging.getLogger("kbn")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)  # the table has the alerts
    try:
        model.fit(data.x, data.y, callbacks=[monitor], **fit)
    except RuntimeError:  # torch has no crossentropy of NaN
        if not any(alert.level == "critical" for alert in monitor.alerts):
            raise
    finally:
        log.setLevel(level)
    return model.evaluate(*validation, verbose=0, return_dict=True)


def entries_of(log_dir):
    """Records and (step, scalars), as they were logged."""
    from tensorboard.backend.event_processing import event_file_loader
    from tensorboard.util import tensor_util

    from kbn.callbacks.log.records import run_in

    for path in sorted(Path(log_dir).glob("events.out.tfevents.*")):
        for event in event_file_loader.EventFileLoader(str(path)).Load():
            values = event.summary.value
            yield from filter(None, map(run_in, values))
            scalars = {
                value.tag: float(tensor_util.make_ndarray(value.tensor))
                for value in values
                if value.tensor.dtype == 1 and not value.tensor.tensor_shape.dim
            }
            if scalars:
                yield event.step, scalars


def judge(job):
    """Of (name, seed, directory or None): what became of it and what the rules say."""
    from zoo_rows import NETWORKS

    name, seed, logs = job
    (network,) = [one for one in NETWORKS if one.name == name]
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        log_dir = Path(logs or temporary) / f"{name} {seed}"
        results = log_dir / "results.json"
        if not results.exists():
            log_dir.mkdir(parents=True, exist_ok=True)
            for old in log_dir.glob("events.out.tfevents.*"):
                old.unlink()
            results.write_text(json.dumps(train(network, seed, log_dir)))
        reached = network.reaches(json.loads(results.read_text()))
        rules = [Measured(rule) for rule in DEFAULT]
        alerts, beside = followed(entries_of(log_dir), rules)
        return {
            "name": name,
            "seed": seed,
            "rules": sorted(network.rules),
            "results": json.loads(results.read_text()),
            "reached": reached,
            "alerts": [(a.rule, a.level, str(a)) for a in alerts],
            "beside": [*beside],
            "opposite": [pair for pair, both in beside.items() if oppose(*both)],
            "named": min(
                (a.step for a in alerts if a.rule in network.rules), default=None
            ),
            "margins": {rule.name: rule.worst for rule in rules},
            "seconds": time.perf_counter() - begun,
        }


def followed(entries, rules):
    """All alerts; pairs of diagnoses, warnings or graver, open at the same time."""
    follower, beside = Follower(rules), {}
    for entry in entries:
        if isinstance(entry, dict):
            follower.record(entry)
        else:
            follower.look(*entry)
        grave = [a for a in follower.open if a.level in FALSE]
        for a, b in itertools.combinations(grave, 2):
            beside[a.rule, b.rule] = a, b
    follower.end()
    for error in follower.failures.values():
        raise error
    return follower.alerts, beside


def oppose(*alerts):
    """Whether one remedy raises what the other lowers."""
    changes = [
        (a.remedy.kind, a.remedy.what, a.remedy.new > a.remedy.old)
        for a in alerts
        if a.remedy is not None
        and isinstance(a.remedy.new, float)
        and isinstance(a.remedy.old, float)
    ]
    return any(x[:2] == y[:2] and x != y for x, y in itertools.combinations(changes, 2))


def done(work, jobs, processes=PROCESSES, at_once=AT_ONCE):
    """What `work` gives of each job, done by processes of their own."""
    if processes == 1:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _one_thread, maxtasksperchild=at_once) as pool:
        yield from pool.imap(work, jobs)


def _one_thread():
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    elif keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)


def is_right(found):
    """Whether a healthy one raised nothing, or a sick one what names its illness."""
    raised = {rule for rule, level, _ in found["alerts"]}
    if found["rules"]:
        return found["reached"] is not True and bool(raised & {*found["rules"]})
    false = {rule for rule, level, _ in found["alerts"] if level in FALSE}
    return found["reached"] is not False and not false


def margins(all_found):
    """Rows: rule, worst healthy severity, mildest sick one, with who it was."""
    for rule in DEFAULT:
        worst, mildest = (0.0, "", 0.0, 0.0, ""), None
        for found in all_found:
            who = f"{found['name']} {found['seed']}"
            one = (*found["margins"][rule.name], who)
            raised = {name for name, *_ in found["alerts"]}
            if not found["rules"] and found["reached"]:
                worst = max(worst, one, key=lambda x: x[0])
            elif rule.name in found["rules"] and rule.name in raised:
                mildest = min(mildest or one, one, key=lambda x: x[0])
        yield rule.name, worst, mildest


def main(arguments=None):
    parser = reporting.parser(__doc__)
    parser.add_argument("--only", metavar="TEXT", help="part of a network's name")
    whole = reporting.whole(1)
    parser.add_argument("--seeds", type=whole, default=SEEDS, metavar="N")
    parser.add_argument("--logs", metavar="DIR", help="to keep the logs in")
    parser.add_argument("--processes", type=whole, default=PROCESSES, metavar="N")
    chosen = parser.parse_args(arguments)
    if chosen.logs is not None and (not chosen.logs or Path(chosen.logs).is_file()):
        parser.error(f"argument --logs: {chosen.logs!r} is not a directory")
    from zoo_rows import NETWORKS

    networks = [one for one in NETWORKS if (chosen.only or "") in one.name]
    if chosen.only == "" or not networks:
        names = ", ".join(one.name for one in NETWORKS)
        parser.error(f"argument --only: {chosen.only!r} is in none of {names}")
    seeds = 1 if chosen.quick else chosen.seeds
    if chosen.quick and not chosen.only:
        networks = networks[:1] + networks[-2:]
    logs = chosen.logs and str(Path(chosen.logs).absolute())
    jobs = [(one.name, seed, logs) for one in networks for seed in range(seeds)]
    begun = time.perf_counter()
    reporting.setting(keras.backend.backend())
    table = reporting.Table("network", "seed", "result", "alerts", "named at step", "")
    all_found = []
    for found in done(judge, jobs, chosen.processes):
        all_found.append(found)
        results = found["results"]
        metric = next(x for x in ("accuracy", "loss", *results) if x in results)
        bar = {True: "", False: " (below its bar)", None: ""}[found["reached"]]
        raised = {rule: level for rule, level, _ in found["alerts"]}
        table.row(
            found["name"],
            found["seed"],
            f"{metric} {results[metric]:.3g}{bar}",
            ", ".join(f"{rule} ({level})" for rule, level in raised.items()) or "none",
            found["named"] or "",
            "right" if is_right(found) else "WRONG",
        )
    table = reporting.Table("rule", "worst healthy", "mildest sick")
    for name, worst, mildest in margins(all_found):
        table.row(name, *map(_shown, (worst, mildest)))
    return summary(all_found, time.perf_counter() - begun)


def _shown(one):
    if one is None:
        return "-"
    share, where, value, limit, who = one
    return (
        f"{share:.2g} ({value:.2g} beside {limit:.2g}: {who}, {where})" if who else "-"
    )


def summary(all_found, seconds):
    """Print the counts; whether anything was wrong."""
    well = [found for found in all_found if not found["rules"]]
    ill = [found for found in all_found if found["rules"]]
    false = [found for found in well if not is_right(found)]
    missed = [found for found in ill if not is_right(found)]
    named = [found["named"] for found in ill if found["named"] is not None]
    steps = statistics.median(named) if named else 0
    beside = [found for found in all_found if found["beside"]]
    opposite = [found for found in all_found if found["opposite"]]
    print(
        f"\n{len(well)} healthy trainings, {len(false)} with a false alarm or below "
        f"their bar. {len(ill)} sick trainings, {len(missed)} not named by a rule that "
        f"fits, or at their bar; named after {steps:.0f} steps (median). In "
        f"{len(beside)} a second diagnosis was open, in {len(opposite)} with opposite "
        f"advice. {seconds:.0f} s."
    )
    for found in beside:
        print(f"  {found['name']}, seed {found['seed']}: {found['beside']}")
    for found in [*false, *missed]:
        print(f"\n{found['name']}, seed {found['seed']}, expected {found['rules']}:")
        for *_, text in found["alerts"]:
            print(f"  {text}")
    return bool(false or missed)


if __name__ == "__main__":
    sys.exit(main())
