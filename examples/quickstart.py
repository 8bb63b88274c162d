"""Batch norm and a monitor in ten lines: handwritten digits, watched in TensorBoard."""

import time

import keras
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kbn

digits, labels = load_digits(return_X_y=True)
x, x_test, y, y_test = train_test_split(digits / 16, labels, random_state=0)

model = keras.Sequential()
model.add(keras.layers.Dense(256))
model.add(kbn.BatchNorm(warmup=True))  # for a short training
model.add(keras.layers.ReLU())
model.add(keras.layers.Dense(10, activation="softmax"))
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])

log_dir = time.strftime("logs/%Y-%m-%d-%H%M%S")  # each run has its own
monitor = kbn.callbacks.TrainingMonitor(log_dir)
model.fit(x, y, epochs=10, validation_data=(x_test, y_test), callbacks=[monitor])

print(monitor.report().verdict)
print("Now run: tensorboard --logdir logs")
