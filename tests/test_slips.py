"""Slips that are often made, and what each error says was meant."""

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
    "TrainingMonitor": TrainingMonitor,
    "X": np.ones((8, 4), "float32"),
    "kbn": kbn,
    "keras": keras,
    "model": model,
    "np": np,
    "rules": rules,
}
LEFT_OUT = "Leave it out: the first inputs say how many channels there are."
# {what is written: what the error says}.
SLIPS = {
    # The layer, as it is written for PyTorch, TensorFlow 1, or from memory.
    "kbn.BatchNorm(eps=1e-5)": "Did you mean epsilon=1e-05?",
    "kbn.BatchNorm(num_features=64)": LEFT_OUT,
    "kbn.BatchNorm(channels=64)": LEFT_OUT,
    "kbn.BatchNorm(units=64)": LEFT_OUT,
    "kbn.BatchNorm(64)(np.ones((2, 64)))": (
        "Did you mean axis=-1? The layer counts the channels itself."
    ),
    "kbn.BatchNorm(9)(np.ones((2, 64)))": "whose axes are -2 to 1. Did you mean axis",
    "kbn.BatchNorm(axis='channels_last')": "an integer. Did you mean axis=-1?",
    "kbn.BatchNorm(axis='channels_first')": "an integer. Did you mean axis=1?",
    "kbn.BatchNorm(data_format='NCHW')": "Did you mean axis=-1 (channels last) or",
    "kbn.BatchNorm(use_bias=False)": "Did you mean center=False?",
    "kbn.BatchNorm(affine=False)": "Did you mean center=False, scale=False?",
    "kbn.BatchNorm(activation='relu')": "Put keras.layers.Activation('relu') behind",
    "kbn.BatchNorm(sync=True)": "Did you mean synchronized=True?",
    "kbn.BatchNorm(synchronised=True)": "Did you mean synchronized=True?",
    "kbn.BatchNorm(gamma_init='zeros')": "Did you mean gamma_initializer='zeros'?",
    "kbn.BatchNorm(training=True)": "of the call: layer(inputs, training=True)",
    "kbn.BatchNorm(momentum=99)": "for PyTorch's 0.1 give 0.9.",
    # The monitor.
    "TrainingMonitor(logdir='a')": "Did you mean log_dir='a'?",
    "TrainingMonitor(log_path='a')": "Did you mean log_dir='a'?",
    "TrainingMonitor(histogram_freq=1)": "Did you mean log_freq=1?",
    "TrainingMonitor(model())": "log_dir must be the path of a directory.",
    "TrainingMonitor(log_freq='epochs')": "Did you mean log_freq='epoch'?",
    "TrainingMonitor(log_freq='Epoch')": "Did you mean log_freq='epoch'?",
    "TrainingMonitor(log_freq='batch')": "Did you mean log_freq=1?",
    "TrainingMonitor(log_freq='10')": "Did you mean log_freq=10?",
    "TrainingMonitor(log_freq=10.0)": "Did you mean log_freq=10?",
    "TrainingMonitor(log_freq=0)": "an integer from 1 (steps)",
    "TrainingMonitor(watch='weights')": "Did you mean watch=('weights',)?",
    "TrainingMonitor(watch='all')": "Leave it out: all but the quantiles is the",
    "TrainingMonitor(watch=['weight'])": "Did you mean 'weights'?",
    "TrainingMonitor(watch=['Gradients'])": "Did you mean 'gradients'?",
    "TrainingMonitor(watch=['bn'])": "Did you mean 'batch_norm'?",
    "TrainingMonitor(layers=['first'])": 'Did you mean layers="^(first)$"?',
    "TrainingMonitor(layers=model().layers[0])": 'Did you mean layers="^(first)$"?',
    "TrainingMonitor(layers=model().layers)": 'mean layers="^(first|norm)$"?',
    "TrainingMonitor(layers=3)": "a regular expression, a function layer -> bool",
    "TrainingMonitor(layers='first(')": "no regular expression: missing )",
    "TrainingMonitor(layer='first')": "Did you mean layers='first'?",
    "TrainingMonitor(on_alert='warn')": "Did you mean on_alert='log'?",
    "TrainingMonitor(on_alert='raises')": "Did you mean on_alert='raise'?",
    "TrainingMonitor(on_alert='print')": "Did you mean on_alert=print?",
    "TrainingMonitor(on_alert=None)": "Did you mean on_alert=lambda alert: None?",
    "TrainingMonitor(on_alerts='stop')": "Did you mean on_alert='stop'?",
    "TrainingMonitor(rules='all')": "Did you mean rules='default'?",
    "TrainingMonitor(rules=False)": "Did you mean rules=None?",
    "TrainingMonitor(rules='dead_relu')": "Did you mean rules=[DeadRelu()]?",
    "TrainingMonitor(rules=rules.DeadRelu)": "Did you mean rules=[DeadRelu()]?",
    "TrainingMonitor(rules=rules.DeadRelu(share=0.5))": (
        "Did you mean rules=[DeadRelu(share=0.5, patience=3)]?"
    ),
    "TrainingMonitor(rules=rules.default_rules)": "mean rules=default_rules()?",
    "TrainingMonitor(rules=[rules.DeadRelu])": (
        "rules has DeadRelu, which is not a kbn rule. Did you mean DeadRelu()?"
    ),
    "TrainingMonitor(rules=['dead_relu'])": "Did you mean DeadRelu()?",
    "TrainingMonitor(samples=10)": "Did you mean sample_size=10?",
    # Names.
    "kbn.Batchnorm": "Did you mean kbn.BatchNorm?",
    "kbn.BatchNorm2d": "Did you mean kbn.BatchNorm?",
    "kbn.SyncBatchNorm": "Did you mean kbn.BatchNorm(synchronized=True)?",
    "kbn.BatchNormalisation": "Did you mean kbn.BatchNormalization?",
    "kbn.layers.BatchNorm": "Did you mean kbn.BatchNorm?",
    "kbn.TrainingMonitor": "Did you mean kbn.callbacks.TrainingMonitor?",
    "kbn.fold_batchnorm": "Did you mean kbn.fold_batch_norm?",
    "kbn.convert": "Did you mean kbn.convert_batch_norm?",
    "kbn.update_bn": "Did you mean kbn.update_bn_stats?",
    "kbn.callback.TrainingMonitor": "Did you mean kbn.callbacks?",
    "kbn.callbacks.TrainingMonitors": "Did you mean kbn.callbacks.TrainingMonitor?",
    "kbn.callbacks.Monitor": "Did you mean kbn.callbacks.TrainingMonitor?",
    "kbn.callbacks.UpdateBNStats": "Did you mean kbn.callbacks.UpdateBatchNormStats?",
    "rules.DeadReLU": "Did you mean kbn.callbacks.rules.DeadRelu?",
    "rules.dead_relu": "Did you mean kbn.callbacks.rules.DeadRelu?",
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


def test_names_that_are_elsewhere_are_there():
    for name in ("Report", *dir(kbn.callbacks)):
        with pytest.raises(AttributeError, match=f"mean kbn.callbacks.{name}\\?"):
            getattr(kbn, name)
        assert hasattr(kbn.callbacks, name)


@pytest.mark.parametrize("name", ["__wrapped__", "_private", "colour"])
def test_names_of_which_none_is_near_have_no_hint(name):
    for module in (kbn, kbn.callbacks, rules):
        with pytest.raises(AttributeError) as error:
            getattr(module, name)
        assert str(error.value).endswith(f"has no attribute {name!r}")
