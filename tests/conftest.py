"""One backend a run, chosen by KERAS_BACKEND; two CPU devices for the strategies."""

import collections
import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import hypothesis
import keras
import pytest

BACKEND = keras.backend.backend()  # an unknown one is an error here

# What is run on every backend; the rest needs TensorFlow.
EVERY_BACKEND = {
    "test_alerts.py",
    "test_capture.py",
    "test_convert.py",
    "test_defects.py",
    "test_diagnostics.py",
    "test_distributed.py",
    "test_documentation.py",
    "test_examples.py",
    "test_fold.py",
    "test_folding.py",
    "test_freeze.py",
    "test_fuzz.py",
    "test_guide.py",
    "test_hyperparameters.py",
    "test_inventory.py",
    "test_layer.py",
    "test_layout.py",
    "test_other_homes.py",
    "test_pages.py",
    "test_monitor.py",
    "test_moving_average.py",
    "test_multi_optimizer.py",
    "test_oracle.py",
    "test_parity.py",
    "test_private.py",
    "test_reader.py",
    "test_registry.py",
    "test_released.py",
    "test_report.py",
    "test_rules.py",
    "test_run_record.py",
    "test_statistics.py",
    "test_survival.py",
    "test_torch_batch_norm.py",
    "test_transformations.py",
    "test_update_bn_stats.py",
    "test_update_bn_stats_callback.py",
    "test_worst.py",
    "test_writer.py",
}


@pytest.fixture(scope="module", autouse=True)
def _little_garbage_to_look_at():
    # TensorFlow and Keras keep the graphs of every model: after a thousand tests, each
    # collection walks through gigabytes of them. Frozen, they are passed over.
    gc.collect()
    gc.freeze()


KERNELS = {f"test_{backend}_kernel.py" for backend in ("tensorflow", "jax", "torch")}


# Each of their models is traced and compiled for seconds: every third case, so that CI
# ends in time, on JAX every fifth; all of them with KBN_CASES=all.
THINNED = {"test_convert.py", "test_fold.py", "test_freeze.py"}
THINNED |= {"test_torch_batch_norm.py", "test_update_bn_stats.py"}
EVERY = 1 if os.environ.get("KBN_CASES") == "all" else 5 if BACKEND == "jax" else 3


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    met = collections.Counter()
    kept, left = [], []
    for item in items:
        case = item.path.name, getattr(item, "originalname", item.name)
        is_left = item.path.name in THINNED and met[case] % EVERY
        (left if is_left else kept).append(item)
        met[case] += 1
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_ignore_collect(collection_path):
    name = collection_path.name
    if not name.startswith("test_") or name == f"test_{BACKEND}_kernel.py":
        return None
    if name in KERNELS:
        return True
    return None if BACKEND == "tensorflow" else name not in EVERY_BACKEND


if BACKEND == "jax":
    import jax

    jax.config.update("jax_num_cpu_devices", 2)

if BACKEND == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Layer names, seeds and the dtype policy do not leak from test to test."""
    # Without collecting garbage, which takes a second around every test.
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def parity(record_property):
    """Records errors against the oracle for the table at the end of the run."""

    def record(case, quantity, ours, theirs):
        narrow = "16" in case.policy and quantity in ("y", "dx")
        dtype = case.policy.replace("mixed_", "") if narrow else "float32"
        dtype = "float64" if case.policy == "float64" else dtype
        record_property("parity", (dtype, quantity, float(ours), theirs))

    return record


def pytest_terminal_summary(terminalreporter):
    reports = [
        r for key in ("passed", "failed") for r in terminalreporter.getreports(key)
    ]
    recorded = [pair for report in reports for pair in report.user_properties]
    write_parity(terminalreporter, [v for name, v in recorded if name == "parity"])
    verdicts = [value for name, value in recorded if name == "transparency"]
    write_transparency(terminalreporter, verdicts)
    rows = [value for name, value in recorded if name == "transformation"]
    write_transformations(terminalreporter, rows)
    for name, tried in recorded:
        if name == "survival":
            terminalreporter.section(f"survival on {BACKEND}")
            for line in tried:
                terminalreporter.line(line)


def write_parity(terminalreporter, records):
    rows = {}
    for dtype, quantity, *errors in records:
        rows.setdefault((dtype, quantity), []).append(errors)
    if not rows:
        return
    terminalreporter.section(f"parity on {BACKEND}: worst relative error to float64")
    terminalreporter.line(
        f"{'':10}{'':16}{'all cases':>18}{'with Keras':>14}{'kbn':>10}{'Keras':>10}"
    )
    for (dtype, quantity), errors in sorted(rows.items()):
        ours = max(error for error, _ in errors)
        shared = [pair for pair in errors if pair[1] is not None]
        same, theirs = (max((p[i] for p in shared), default=0.0) for i in (0, 1))
        terminalreporter.line(
            f"{dtype:10}{quantity:16}{len(errors):8}{ours:10.1e}"
            f"{len(shared):14}{same:10.1e}{theirs:10.1e}"
        )


def write_transparency(terminalreporter, verdicts):
    """How many trainings a monitor left as they were: see test_transparency.py."""
    if not verdicts:
        return
    kinds = ("bit-identical", "bounded", "failing", "that Keras cannot train")
    counts = ", ".join(f"{verdicts.count(kind)} {kind}" for kind in kinds)
    terminalreporter.section("transparency")
    terminalreporter.line(f"transparency: {len(verdicts)} cases, {counts}")


def write_transformations(terminalreporter, rows):
    """What is wrapped around the layer, and with whose it works."""
    if not rows:
        return
    terminalreporter.section(f"transformations on {BACKEND}")
    words = {True: "works", False: "fails"}
    for name, theirs, ours in rows:
        line = f"{name:70} Keras {words[theirs]}, kbn {words[ours]}"
        terminalreporter.line(line)


hypothesis.settings.register_profile(
    "ci",
    max_examples=100,
    deadline=None,  # the first call of every op is slow
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("ci"), max_examples=2500, derandomize=False
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
