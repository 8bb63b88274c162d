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

# What is run on every backend; the rest needs TensorFlow, or no backend at all.
EVERYWHERE = """
alerts_zoo batch_norm_judgement capture check convert defects differentiation
distributed documentation examples fold folding freeze fuzz hyperparameters
input_judgement insert inventory layer monitor moving_average multi_optimizer
not_finite oracle other_homes output_facts own_signals pages parity private probe
rate_judgement registry released report run_record signals sinks skew slips statistics
survival target_judgement torch_batch_norm transformations transparency
update_bn_stats update_bn_stats_callback worst zeros
"""


@pytest.fixture(scope="module", autouse=True)
def _little_garbage_to_look_at():
    # TensorFlow and Keras keep the graphs of every model: after a thousand tests, each
    # collection walks through gigabytes of them. Frozen, they are passed over.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _signals_as_before():
    """What a test adds of its own, a page's code too, is not known to the others."""
    from kbn.callbacks.signals import registry

    before = dict(registry.REGISTRY)
    yield
    if before != registry.REGISTRY:
        registry.REGISTRY.clear()
        registry.REGISTRY.update(before)
        registry._by_subject.clear()


KERNELS = {f"test_{backend}_kernel.py" for backend in ("tensorflow", "jax", "torch")}


# Families that are broad: of every test in these files, or of this name, about one row
# in so many is in `make test`, the others are `long`; the first always is.
ONLY_THE_FIRST = 10**6
ONE_ROW_IN = {
    "test_alerts.py": 2,
    "test_convert.py": 16,
    "test_diagnosis.py": 2,
    "test_fold.py": 10,
    "test_folding.py": 12,
    "test_freeze.py": 12,
    "test_gallery.py": ONLY_THE_FIRST,
    "test_gpu.py": 12,
    "test_jax_kernel.py": 6,
    "test_lifetime.py": 16,
    "test_multi_optimizer.py": 18,
    "test_output_facts.py": 6,
    "test_own_signals.py": 16,
    "test_parity.py": 16,
    "test_probe.py": 12,
    "test_pruned.py": 4,
    "test_released.py": ONLY_THE_FIRST,
    "test_rules.py": 2,
    "test_situations.py": ONLY_THE_FIRST,
    "test_slips.py": 2,
    "test_step.py": ONLY_THE_FIRST,
    "test_tensorflow_kernel.py": 10,
    "test_torch_batch_norm.py": 10,
    "test_transformations.py": 4,
    "test_transparency.py": 24,
    "test_update_bn_stats.py": 10,
    "test_update_bn_stats_callback.py": 10,
    "test_a_console_of_any_encoding_is_printed_to": ONLY_THE_FIRST,
    "test_a_made_up_signal_is_everywhere": 10,
    "test_a_model_that_changes_in_a_fit_is_described_again": ONLY_THE_FIRST,
    "test_a_nan_in_the_data_is_found_when_it_comes_again": 8,
    "test_a_scale_is_a_warning_where_it_harms": 10,
    "test_a_step_that_makes_a_nan_is_named": 6,
    "test_a_tensor_in_a_graph_is_what_numpy_reads": 8,
    "test_batch_norm_is_undone_by_gamma_and_beta": 12,
    "test_defect_is_mended": 6,
    "test_each_of_several_outputs_has_its_guess": ONLY_THE_FIRST,
    "test_gradients_are_unscaled_and_unclipped": ONLY_THE_FIRST,
    "test_graph_of_twenty_layers_is_not_much_larger_than_keras_own": ONLY_THE_FIRST,
    "test_guess_is_the_loss_of_the_best_constant": 8,
    "test_guess_without_a_closed_form_is_not_below_the_best": ONLY_THE_FIRST,
    "test_histograms_are_drawn": ONLY_THE_FIRST,
    "test_log_freq": 6,
    "test_loss_gap_is_of_models_that_tell_modes_apart": ONLY_THE_FIRST,
    "test_mixed_precision": ONLY_THE_FIRST,
    "test_output_that_does_not_fit_is_told_at_step_one": 12,
    "test_picture_shows_whatever_happens": ONLY_THE_FIRST,
    "test_random_graphs_give_what_they_gave": ONLY_THE_FIRST,
    "test_rate_is_judged_by_the_first_steps_and_the_loss": 10,
    "test_replicas_count_the_batches_that_entered_together": ONLY_THE_FIRST,
    "test_rules_name_the_illness_and_nothing_else": ONLY_THE_FIRST,
    "test_rules_on_where_statistics_come_from": 6,
    "test_saved_model_serves_the_same": ONLY_THE_FIRST,
    "test_share_is_that_of_the_layer_itself": ONLY_THE_FIRST,
    "test_softmax_for_logits_is_told_where_keras_does_not_undo_it": ONLY_THE_FIRST,
    "test_summed_loss_of_an_own_step_is_no_explosion": ONLY_THE_FIRST,
    "test_synchronized_replicas_equal_one": ONLY_THE_FIRST,
    "test_updates_and_distances_over_two_fits": ONLY_THE_FIRST,
    "test_watch_selects": 6,
    "test_what_is_seen_of_a_step_that_differentiates": 20,
    "test_watching_changes_no_bit": 1,  # transparency.py says which
}
# Of all other families, and of the tests in these files, whatever their name.
OTHERS = 8
FITS = """
alerts_monitor capture check convert fold freeze gallery hyperparameters input_judgement
insert lifetime monitor multi_optimizer other_homes own_signals report_command signals
situations survival update_bn_stats update_bn_stats_callback
"""
ONE_TEST_IN = {f"test_{x}.py": 2 for x in FITS.split()}
NOT_IN_SHORT = {  # a fit or a process each, and others notice the same breaks
    "test_first_remedy_cures_and_the_verdict_is_healthy_then",  # make cures
    "test_help_and_report_start_without_keras",
    "test_replicas_show_eagerly_what_they_show_in_a_graph",
    "test_runs_that_diverge_are_shown_as_they_are",
    "test_scalars_have_their_charts_and_say_what_they_are",
    "test_what_is_inside_a_loop_is_listed",
}
if BACKEND == "jax":  # which compiles a model for seconds
    ONE_ROW_IN = {name: max(n, 32) for name, n in ONE_ROW_IN.items()}
    ONE_ROW_IN |= {
        "test_transformations.py": 8,
        "test_code_runs_in_the_order_of_the_page": 3,
        "test_docstring_example_runs": 4,
        "test_watching_changes_no_bit": 10,
    }
    OTHERS = 12
    more = ("test_monitor.py", "test_probe.py", "test_signals.py")
    ONE_TEST_IN |= dict.fromkeys(more, 6)
    NOT_IN_SHORT |= {
        "test_a_made_up_signal_is_everywhere",
        "test_a_skipped_step_of_loss_scaling_has_no_second_value",
        "test_back_drops_the_warmup_and_says_so",
        "test_frozen_model_is_the_same_after_saving_and_loading",
        "test_history_is_what_was_written",
        "test_it_changes_no_bit",  # as those of test_transparency.py
        "test_random_graphs_give_what_they_gave",
        "test_updates_and_distances_over_two_fits",
        "test_watching_changes_no_bit_and_logs_each_learning_rate",
    }


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is marked `long`
def pytest_collection_modifyitems(items):
    met = collections.Counter()
    for item in items:
        test = file, name = item.path.name, getattr(item, "originalname", item.name)
        rows = ONE_ROW_IN.get(name, ONE_ROW_IN.get(file, OTHERS))
        # Spread by the golden ratio: a stride would meet one parameter's levels only.
        for key, share in ((test, rows), (file, ONE_TEST_IN.get(file, 1))):
            if met[key] * 0.6180339887 % 1 >= 1 / share:
                item.add_marker("long")
            met[key] += 1
        if name in NOT_IN_SHORT:
            item.add_marker("long")


def pytest_ignore_collect(collection_path):
    name = collection_path.name
    if not name.startswith("test_") or name == f"test_{BACKEND}_kernel.py":
        return None
    if name in KERNELS:
        return True
    return None if BACKEND == "tensorflow" else name[5:-3] not in EVERYWHERE.split()


if BACKEND == "jax":
    import jax

    jax.config.update("jax_num_cpu_devices", 2)

if BACKEND == "torch" and "PYTEST_XDIST_WORKER" in os.environ:
    import torch

    torch.set_num_threads(1)  # the threads of two processes wait for each other

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


hypothesis.settings.register_profile(
    "ci",
    max_examples=8 if BACKEND == "jax" else 20,  # which compiles each shape
    deadline=None,  # the first call of every op is slow
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.register_profile(
    "long", hypothesis.settings.get_profile("ci"), max_examples=2500, derandomize=False
)


def pytest_configure(config):
    # With what is marked `long`, more random examples too.
    is_short = config.option.markexpr == "not long"
    if BACKEND == "jax" and is_short:  # XLA compiles in three quarters of the time
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_backend_optimization_level=0".strip()
    hypothesis.settings.load_profile("ci" if is_short else "long")
    if BACKEND == "jax":
        # Compiling takes most of the time: once, for all processes and the next run.
        programs = str(config.cache.mkdir("jax"))
        jax.config.update("jax_compilation_cache_dir", programs)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
