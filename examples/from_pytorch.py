"""A PyTorch network beside ours: same weights in, same numbers out, training included.

Runs on every Keras backend; PyTorch has to be installed.
"""

import sys

import command
import keras
import numpy as np

import kbn

command.parser(__doc__).parse_args()
try:
    import torch
except ModuleNotFoundError:
    print("Skipped: this example needs PyTorch beside Keras. Run: pip install torch")
    sys.exit()

torch.manual_seed(0)
theirs = torch.nn.Sequential(
    torch.nn.Linear(784, 256),
    torch.nn.BatchNorm1d(256),
    torch.nn.SiLU(),  # smooth: a ReLU turns one rounding near 0 into another gradient
    torch.nn.Linear(256, 10),
)
ours = keras.Sequential(
    [
        keras.Input((784,)),
        keras.layers.Dense(256),
        # torch's momentum 0.1 is the share of the new batch, Keras' that of the old
        # average; torch's epsilon is 1e-5; its running variance divides by n - 1.
        kbn.BatchNorm(momentum=0.9, epsilon=1e-5, unbiased=True),
        keras.layers.Activation("silu"),
        keras.layers.Dense(10),
    ]
)

# The same weights. A Linear keeps (outputs, inputs), a Dense (inputs, outputs).
# Copies, because numpy() alone shares its memory with torch, which trains in place.
state = {name: value.numpy().copy() for name, value in theirs.state_dict().items()}
hidden, batch_norm, _, logits = ours.layers
hidden.set_weights([state["0.weight"].T, state["0.bias"]])
names = ("weight", "bias", "running_mean", "running_var")
batch_norm.set_weights([state[f"1.{name}"] for name in names])
logits.set_weights([state["3.weight"].T, state["3.bias"]])

# The same 20 steps of training, on noise: here only the numbers matter.
loss_function = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ours.compile(keras.optimizers.SGD(0.1), loss_function)
optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1)
rng = np.random.default_rng(0)
their_losses, our_losses = [], []
for _ in range(20):
    x = rng.random((64, 784), dtype="float32")
    y = rng.integers(0, 10, 64)
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(theirs(torch.tensor(x)), torch.tensor(y))
    loss.backward()
    optimizer.step()
    ours.reset_metrics()  # else Keras returns the mean over the steps so far
    their_losses.append(loss.item())
    our_losses.append(ours.train_on_batch(x, y))


def compare(name, theirs, ours):
    """Print a row: the size of the values, and how far apart they are at most."""
    a, b = theirs.detach().numpy(), keras.ops.convert_to_numpy(ours)
    print(f"{name:24}{abs(a).max():15.3g}{abs(a - b).max():20.1e}")


print(f"{'after 20 steps':24}{'largest value':>15}{'largest difference':>20}")
compare("the losses of the steps", torch.tensor(their_losses), np.array(our_losses))
compare("running mean", theirs[1].running_mean, batch_norm.moving_mean)
compare("running variance", theirs[1].running_var, batch_norm.moving_variance)
# torch changes the mode of a network, Keras takes it as an argument of each call.
x_torch, x_keras = torch.tensor(x), keras.ops.convert_to_tensor(x)
compare("eval(), training=False", theirs.eval()(x_torch), ours(x_keras, training=False))
compare("train(), training=True", theirs.train()(x_torch), ours(x_keras, training=True))
