"""Slips that are often made, and what each error says was meant."""

from pathlib import Path

import keras
import numpy as np
import pytest

import kbn
from kbn.callbacks import TrainingMonitor, rules


def model():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="first")])
    network.add(kbn.BatchNorm(name="norm"))
    return network


NAMES = {
    "Path": Path,
    "TrainingMonitor": TrainingMonitor,
    "X": np.ones((8, 4), "float32"),
    "kbn": kbn,
    "keras": keras,
    "model": model,
    "np": np,
    "rules": rules,
}
# {what is written: what the error says}.
SLIPS = {
    # The layer, as it is written for PyTorch, TensorFlow 1, or from memory.
    "kbn.BatchNorm(eps=1e-5)": (
        "BatchNorm(eps=1e-05): there is no argument eps. Did you mean epsilon=1e-05?"
    ),
    "kbn.BatchNorm(64)(np.ones((2, 64)))": (
        "Did you mean axis=-1? The layer counts the channels itself."
    ),
    "kbn.BatchNorm(9)(np.ones((2, 64)))": "whose axes are -2 to 1. Did you mean axis",
    "kbn.BatchNorm(data_format='NCHW')": "Did you mean axis=-1 (channels last) or",
    "kbn.BatchNorm(affine=False)": "Did you mean center=False, scale=False?",
    "kbn.BatchNorm(momentum=99)": "for PyTorch's 0.1 give 0.9.",
    # The monitor.
    "TrainingMonitor(model())": "log_dir must be the path of a directory.",
    "TrainingMonitor('')": "TrainingMonitor(log_dir=''): log_dir must be the path of a",
    "TrainingMonitor(3)": "TrainingMonitor(log_dir=3): log_dir must be the path of a",
    "TrainingMonitor('gs://a')": "log_dir='gs://a'): log_dir must be a local directory",
    "TrainingMonitor(Path('s3://b/c'))": "log_dir must be a local directory, not a URL",
    "TrainingMonitor(logdir='a')": "TrainingMonitor(logdir='a'): there is no argument "
    "logdir. Did you mean log_dir='a'?",
    "TrainingMonitor(colour=1)": "There are: log_dir, log_freq, watch, layers, rules, ",
    "TrainingMonitor(log_frequency='epoch')": "Did you mean log_freq='epoch'?",
    **{
        f"TrainingMonitor(log_freq={freq})": 'log_freq must be "auto", "epoch", an '
        "integer from 1 (steps), or a function step -> bool."
        for freq in ("0", "True", "'batch'", "np.float64(3)", "np.array([1, 2])")
    },
    **{
        f"TrainingMonitor(watch={watch})": "watch must be a tuple of some of "
        "('weights', 'gradients', 'activations', 'batch_norm', 'quantiles')."
        for watch in ("'weights'", "['weight']", "('gradient',)", "3")
    },
    **{
        f"TrainingMonitor(layers={layers})": "layers must be a regular expression, a "
        "function layer -> bool, or None."
        for layers in ("3", "['first']", "model().layers[0]")
    },
    "TrainingMonitor(layers='first(')": "no regular expression: missing )",
    "TrainingMonitor(layer='first')": "Did you mean layers='first'?",
    "TrainingMonitor(on_alert=None)": "expected 'log', 'stop', 'raise' or a function",
    "TrainingMonitor(on_alert='stopp')": "'log', 'stop', 'raise' or a function",
    "TrainingMonitor(on_alert=['log'])": "'log', 'stop', 'raise' or a function",
    "TrainingMonitor(on_alerts='stop')": "Did you mean on_alert='stop'?",
    "TrainingMonitor(rules='all')": "Did you mean rules='default'?",
    "TrainingMonitor(rules=False)": "Did you mean rules=None?",
    "TrainingMonitor(rules='dead_relu')": "Did you mean rules=[DeadRelu()]?",
    "TrainingMonitor(rules=rules.DeadRelu)": "Did you mean rules=[DeadRelu()]?",
    "TrainingMonitor(rules=rules.DeadRelu(share=0.5))": (
        "Did you mean rules=[DeadRelu(share=0.5, dropout=0.5, patience=20)]?"
    ),
    "TrainingMonitor(rules=rules.default_rules)": "mean rules=default_rules()?",
    "TrainingMonitor(rules=[rules.DeadRelu])": (
        "rules has DeadRelu, which is not a kbn rule. Did you mean DeadRelu()?"
    ),
    "TrainingMonitor(rules=['dead_relu'])": "Did you mean DeadRelu()?",
    "TrainingMonitor(rules=[rules.DeadRelu()] * 2)": "rules has two of dead_relu.",
    "TrainingMonitor(samples=10)": "Did you mean sample_size=10?",
    "TrainingMonitor(sample_size=0)": "(sample_size=0): sample_size must be an integer",
    "TrainingMonitor(sample_size=1.5)": "sample_size must be an integer from 1.",
    "TrainingMonitor(signals='norm')": "a list of functions",
    "TrainingMonitor(signals=print)": "a list of functions",
    "TrainingMonitor(signals=[1])": "functions with a name",
    "TrainingMonitor(signals=[lambda look: 0.0])": "functions with a name",
    "TrainingMonitor(signals=[print, print])": "two functions have the name 'print'",
    "TrainingMonitor(on_look='mlflow')": "on_look must be a function of (step, {tag: ",
    "TrainingMonitor(hparams=[1])": "hparams must be a dictionary of names to booleans",
    "TrainingMonitor(hparams={'a': [1]})": "numbers and strings, not 'a': [1].",
    "TrainingMonitor(hparams={1: 2})": "numbers and strings, not 1: 2.",
    "TrainingMonitor(hparams={'': 2})": "numbers and strings, not '': 2.",
    "TrainingMonitor(hparams={'a': float('nan')})": "; 'a' is not finite.",
    # Functions.
    "kbn.update_bn_stats(X, model())": "Did you mean update_bn_stats(model, data)?",
    "kbn.update_bn_stats(model(), 'train')": "to be arrays, or to give batches",
    "kbn.update_bn_stats(model(), X, batch_size=0)": "batch_size to be an integer from",
    "kbn.fold_batch_norm(X)": "dtype=float32), of type ndarray.",
    "kbn.convert_batch_norm('a.keras')": "expects a Keras model or layer, received",
    "kbn.freeze_batch_norm(keras.layers.Dense(3))": "There is no batch norm in Dense",
    "kbn.callbacks.Report('logs')": "did you mean Report.read('logs')?",
    "kbn.callbacks.Report.read('nowhere')": "no log of TrainingMonitor's in 'nowhere'",
    "kbn.callbacks.Report([]).save('a.pdf')": "a name that ends in .html, .md, ",
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slip_is_met_with_what_was_meant(slip):
    with pytest.raises(
        (ValueError, TypeError, AttributeError, OSError, UserWarning)
    ) as e:
        eval(slip, NAMES)  # warnings are errors here
    assert SLIPS[slip] in str(e.value)


# Python names the nearest of `dir(module)` in a traceback, given these two.
@pytest.mark.parametrize("module", [kbn, kbn.callbacks, rules])
@pytest.mark.parametrize("name", ["Batchnorm", "_private"])
def test_an_unknown_name_says_what_python_needs_for_its_hint(module, name):
    with pytest.raises(AttributeError, match=f"has no attribute '{name}'") as error:
        getattr(module, name)
    assert (error.value.name, error.value.obj) == (name, module)
