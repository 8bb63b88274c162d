"""Which of the 32 defects of Keras 3.15.1's batch normalization does kbn have?

Prints, for every defect that can be looked for on the running backend, what one probe
saw of Keras' layer and of kbn's, and the verdict; then why kbn shares some of them, and
what holds all the same. Exits 1 if kbn has one that it should not have.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import keras
import reporting
import steps

import kbn
from tests.defects import BACKEND, DEFECTS, HERE, measure


def two_devices():
    """Two CPU devices for the replicas; before anything runs on one."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        two = [tf.config.LogicalDeviceConfiguration()] * 2
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, two)
    elif BACKEND == "jax":
        import jax

        jax.config.update("jax_num_cpu_devices", 2)


def verdict(defect, theirs, ours):
    """One phrase; that of a failure is in capitals."""
    if ours.defective:
        return defect.shared.verdict if defect.shared else "KBN HAS IT"
    if defect.shared:
        return "kbn no longer shares it"
    if not theirs.defective:
        expected = BACKEND in defect.backends
        return "Keras no longer has it" if expected else "neither, on this backend"
    return "fixed"


def main(arguments=None):
    reporting.parser(__doc__).parse_args(arguments)
    two_devices()
    keras.utils.set_random_seed(0)
    reporting.setting(steps.package())
    table = reporting.Table("", "what", "Keras", "kbn", "verdict")
    failed = 0
    for defect in HERE:
        theirs = measure(defect.probe, keras.layers.BatchNormalization)
        ours = measure(defect.probe, kbn.BatchNorm)
        phrase = verdict(defect, theirs, ours)
        failed += phrase == "KBN HAS IT"
        table.row(defect.id, defect.what, theirs.seen, ours.seen, phrase)

    print("\nShared, and what holds all the same:\n")
    for defect in HERE:
        if (shared := defect.shared) is None:
            continue
        finding = measure(shared.probe, kbn.BatchNorm)
        failed += finding.defective
        mark = "  FAILED" * finding.defective
        print(f"- {defect.id}: {shared.reason}; {shared.holds}: {finding.seen}{mark}")
    elsewhere = " ".join(defect.id for defect in DEFECTS if defect not in HERE)
    if elsewhere:
        print(f"\nOn other backends only: {elsewhere}")
    print(f"\n{failed} that kbn should not have")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
