"""Constants of `kbn demo` that its help shows before Keras is imported."""

# High enough that the plain network fails and low enough that batch norm does not;
# benchmarks/learning_rates.py measures both over ten seeds, and lower and higher rates.
LEARNING_RATE = 2.0
BATCH_SIZE = 32
TRAINING_DIGITS = 1344  # 42 batches, none short: statistics of 3 digits would be noise
STEPS_PER_EPOCH = TRAINING_DIGITS // BATCH_SIZE
