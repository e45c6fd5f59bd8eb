# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Classifying digits with a convolutional network
#
# This notebook goes through the steps of a course notebook written in Julia with Flux.jl ("Mathematical Methods in
# Data Science", S. Roch, University of Wisconsin-Madison, 2020), with the Julia line beside each. First everything
# is written out here, in plain JAX and Flax. Then the package `mmids_cnn` does the same, faster, and we check that
# both agree, step for step.
#
# You need Python and some linear algebra and calculus, nothing of JAX. Run the cells from top to bottom: three
# minutes on a laptop. As a program: `python experiments/walkthrough/walkthrough.py`. Its pictures need matplotlib
# (`pip install -e '.[notebook]'`).

# %%
import os
import time

from mmids_cnn.devices import cores

cores.as_devices()  # before JAX is imported: the package then trains on all cores

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot as plt

from mmids_cnn import config, data, epoch, loop, model, train
from mmids_cnn.console import experiment_file

EXAMPLES = int(os.environ.get("EXAMPLES", "60000"))  # training images; fewer for a quick look
EPOCHS = int(os.environ.get("EPOCHS", "10"))

# %% [markdown]
# ## 1. The data
#
# `imgs = MNIST.images(); labels = MNIST.labels()`
#
# MNIST is 60,000 images of handwritten digits to learn from and 10,000 others to test with, each of 28 by 28 grey
# pixels, with the digit that was meant. Pixels are stored as whole numbers from 0, black, to 255, white.

# %%
experiment = config.resolve(experiment_file.load("base"))
mnist = data.load(experiment.dataset)
images, labels = (np.asarray(array[:EXAMPLES]) for array in mnist.splits["train"])
test_images, test_labels = map(np.asarray, mnist.splits["test"])
print(images.shape, images.dtype, labels[:10])
assert labels[0] == 5

# %% [markdown]
# A digit is a picture to us and numbers to a computer:

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
left.imshow(images[0, ..., 0], cmap="gray")
right.imshow(np.ones((10, 10)), cmap="gray", vmin=0, vmax=1)
for row in range(10):
    for column in range(10):
        right.text(column, row, images[0, 5 + row, 12 + column, 0], ha="center", va="center", fontsize=8)
left.add_patch(plt.Rectangle((11.5, 4.5), 10, 10, fill=False, edgecolor="tab:orange", lw=2))
left.set_title("the first image, a 5")
right.set_title("the pixels in the square")
for axis in (left, right):
    axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## 2. Numbers between 0 and 1, and one long vector
#
# `reshape(Float32.(imgs[1]), 784)`
#
# A network works with real numbers of moderate size, so that pixels are divided by 255. Written row after row, an
# image is a vector of 28 * 28 = 784 numbers.

# %%
vector = data.flat(images[0])
print(vector.shape, vector.dtype, vector.min(), vector.max())
assert vector.shape == (784,) and vector.max() == 1

# %% [markdown]
# ## 3. Labels as vectors
#
# `onehot(5, 0:9)`, `onehotbatch(labels, 0:9)`, `onecold(v, 0:9)`
#
# The network will answer with ten probabilities. The right answer for a 5 is the vector that is 1 at place 5 and 0
# elsewhere. `one_cold` goes back, to the place of the largest entry.

# %%
five = data.one_hot(5, 10)
print(five, data.one_cold(five, 10))
assert data.one_cold(data.one_hot(labels[:100], 10), 10).tolist() == labels[:100].tolist()

# %% [markdown]
# ## 4. and 5. The test images, and arrays with four axes
#
# `test_imgs = MNIST.images(:test)`; Flux has the axes width, height, channel, number.
#
# JAX's layers take the axes number, height, width, channel ("NHWC"). A grey image has one channel, a colour image
# three. The test images are put aside: the network never learns from them.

# %%
print("train", images.shape, "test", test_images.shape)
assert len(test_images) == 10_000

# %% [markdown]
# ## 6. The network
#
# ```julia
# m = Chain(Conv((3, 3), 1=>16, pad=(1,1), relu), MaxPool((2,2)),
#           Conv((3, 3), 16=>32, pad=(1,1), relu), MaxPool((2,2)),
#           Conv((3, 3), 32=>32, pad=(1,1), relu), MaxPool((2,2)),
#           x -> reshape(x, :, size(x, 4)), Dense(288, 10), softmax)
# ```
#
# A *convolution* slides a small window of weights, the kernel $k$, over the image $x$ and puts out at each pixel
#
# $$y_{i,j,f} = b_f + \sum_{u=-1}^{1} \sum_{v=-1}^{1} \sum_c k_{u,v,c,f} \, x_{i+u,\,j+v,\,c} ,$$
#
# the same weights everywhere: what is an edge at one place is an edge at another. *ReLU* keeps what is positive,
# $\max(0, y)$. *Max-pooling* keeps the largest of each 2 by 2 pixels, so that the image shrinks: 28, 14, 7, 3 pixels.
# The last layer is a linear map of the 3 * 3 * 32 = 288 numbers that are left to ten *logits* $z$. The *softmax*
# $p_i = e^{z_i} / \sum_j e^{z_j}$ makes probabilities of them.
#
# In Flax a network is a function of its parameters: `network.init` makes them, `network.apply` uses them.


# %%
class PlainNet(nn.Module):
    """The network of the course notebook, of Flax's own layers."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits `[n, 10]` of images `[n, 28, 28, 1]`, values 0 to 255."""
        x = x / 255
        for features in (16, 32, 32):
            x = nn.Conv(features, (3, 3), kernel_init=nn.initializers.glorot_uniform())(x)
            x = nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        return nn.Dense(10, kernel_init=nn.initializers.glorot_uniform())(x)


network = PlainNet()
params = network.init(jax.random.key(0), images[:1])["params"]
for name, layer in params.items():
    print(f"{name:8}", {part: array.shape for part, array in layer.items()})
count = sum(array.size for array in jax.tree.leaves(params))
print(f"{count:,} parameters")
assert count == 160 + 4_640 + 9_248 + 2_890 == 16_938

# %% [markdown]
# ## 7. An answer before it has learned anything
#
# `m(x)`

# %%
logits = network.apply({"params": params}, test_images[:1])
print(jax.nn.softmax(logits).round(3))

# %% [markdown]
# Ten numbers near 0.1: it guesses.
#
# ## 8. Batches
#
# `DataLoader(train_x, train_y, batchsize=128, shuffle=true)`
#
# The network learns from 128 images at a time. An *epoch* shows each image once, in a new random order; the last
# batch is what is left over.


# %%
def batches(seed: int, number: int, size: int = 128):
    """The images and labels of one epoch, in the order that the package has too."""
    order = epoch.epoch_order(jnp.uint32(seed), jnp.int32(number), len(labels), size)[: len(labels)]
    for start in range(0, len(labels), size):
        chosen = np.asarray(order[start : start + size])
        yield images[chosen], labels[chosen]


print(-(-len(labels) // 128), "steps an epoch, the last of", len(labels) % 128 or 128, "images")

# %% [markdown]
# ## 9. What is to become small, and how
#
# `loss(x, y) = crossentropy(m(x), y)`, `opt = ADAM()`
#
# The *cross-entropy* of an image is $-\log p_{\text{label}}$: 0 if the network is sure and right, large if it is sure
# and wrong. Its mean over a batch is a function of all 16,938 parameters, and JAX computes its gradient:
# `jax.grad` takes a function and returns the function that is its gradient. We check one entry of it by hand: the
# slope between two points close to each other.


# %%
def loss(params, x, y):
    """Mean cross-entropy of a batch, taken from the logits."""
    logits = network.apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


x, y = next(batches(0, 0))
gradient = jax.grad(loss)(params, x, y)
step = 1e-2


def moved(by: float):
    """The parameters, with one bias of the last layer moved."""
    bias = params["Dense_0"]["bias"].at[3].add(by)
    return {**params, "Dense_0": {**params["Dense_0"], "bias": bias}}


slope = (loss(moved(step), x, y) - loss(moved(-step), x, y)) / (2 * step)
print("by JAX", gradient["Dense_0"]["bias"][3], "by hand", slope)
assert abs(slope - gradient["Dense_0"]["bias"][3]) < 1e-4

# %% [markdown]
# *Gradient descent* would step against the gradient $g$. *Adam* keeps a running mean $m$ of the gradients and $v$ of
# their squares, and steps by $\eta \, \hat m / (\sqrt{\hat v} + \epsilon)$: each parameter at its own pace. Here
# $\eta = 0.001$, and the means forget with 0.9 and 0.999.
#
# `train_step` is a pure function: what it needs goes in, what has changed comes out. `jax.jit` compiles it.

# %%
optimizer = optax.adam(1e-3)


@jax.jit
def train_step(params, state, x, y):
    """Parameters and the optimizer's state after one step, and the loss before it."""
    value, gradient = jax.value_and_grad(loss)(params, x, y)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value


# %% [markdown]
# ## 10. How good is it?
#
# `accuracy(x, y) = mean(onecold(m(x)) .== onecold(y))`


# %%
@jax.jit
def predict(params, x):
    """The digit that the network takes each image for."""
    return network.apply({"params": params}, x).argmax(-1)


def accuracy(params) -> float:
    """Share of the test images that are right."""
    found = [predict(params, part) for part in np.split(test_images, 10)]
    return float((np.concatenate(found) == test_labels).mean())


print(f"untrained: {accuracy(params):.4f}")

# %% [markdown]
# ## 11. Training
#
# `@time train!(loss, params(m), ncycle(train_loader, 1), opt)`
#
# One epoch, written out:

# %%
start, state = time.perf_counter(), optimizer.init(params)
learned, losses = params, []
for x, y in batches(0, 0):
    learned, state, value = train_step(learned, state, x, y)
    losses.append(float(value))
print(f"one epoch: {time.perf_counter() - start:.1f} s, test accuracy {accuracy(learned):.4f}")

# %% [markdown]
# ### The same from the package
#
# `mmids_cnn` trains the same network with the same step, only with layers that a CPU runs faster. We start both from
# the same parameters, and show both the same three batches.

# %%
ours = train.init_state(experiment, mnist)


def renamed(params):
    """The package's parameters by the names that Flax gave ours."""
    return {name.replace("ConvPool", "Conv"): dict(layer) for name, layer in params.items()}


plain, state = renamed(ours.params), optimizer.init(renamed(ours.params))
package_step = jax.jit(train.train_step)
for (x, y), _ in zip(batches(0, 0), range(3), strict=False):
    plain, state, value = train_step(plain, state, x, y)
    ours, sums = package_step(ours, train.Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(len(y), bool)))
    its_value = float(sums.totals["loss"] / sums.count)
    print(f"loss written out {value:.6f}, by the package {its_value:.6f}")
    assert abs(float(value) - its_value) < 1e-5
apart = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), plain, renamed(ours.params))
print("parameters differ by at most", max(map(float, jax.tree.leaves(apart))))
assert max(map(float, jax.tree.leaves(apart))) < 1e-4

# %% [markdown]
# ## 12. Watching it learn
#
# `evalcb = throttle(() -> @show(accuracy(test_x, test_y)), 60)`, `train!(…, ncycle(train_loader, 9), opt, cb = evalcb)`
#
# `loop.fit` trains, and hands back control about twice a second; wherever the splits were just scored, it has a row.

# %%
subset = {"train": data.Split(images, labels), "test": mnist.splits["test"]}
mnist = data.Dataset(mnist.name, subset, mnist.num_classes, mnist.fingerprint)
experiment = config.resolve({**config.to_dict(experiment), "num_epochs": EPOCHS})
rows = []
for point in loop.fit(experiment, mnist):
    for row in point.rows:
        rows.append(row)
        print(
            f"epoch {row['epoch']:g}: test accuracy {row['test/accuracy']:.4f}, loss {row['test/loss']:.4f}"
        )
print(f"{point.seconds.train:.1f} s of training, {point.seconds.compile:.1f} s of compiling")
trained = point.state.params

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
for split in ("train", "test"):
    known = [row for row in rows if f"{split}/loss" in row]
    left.plot([r["epoch"] for r in known], [r[f"{split}/loss"] for r in known], "-o", ms=3, label=split)
    right.plot(
        [r["epoch"] for r in known], [1 - r[f"{split}/accuracy"] for r in known], "-o", ms=3, label=split
    )
for axis, title in ((left, "loss, nats"), (right, "share that is wrong")):
    axis.set(xlabel="epoch", title=title, yscale="log")
    axis.legend()
plt.show()

# %% [markdown]
# ### What it has learned
#
# The 16 kernels of the first layer, and what they make of the first test image:

# %%
kernels = np.asarray(trained["ConvPool_0"]["kernel"])[:, :, 0]  # 3, 3, 16
maps = jax.lax.conv_general_dilated(
    jnp.asarray(test_images[:1] / np.float32(255)),
    trained["ConvPool_0"]["kernel"],
    (1, 1),
    "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
)
maps = jax.nn.relu(maps + trained["ConvPool_0"]["bias"])
figure, axes = plt.subplots(2, 16, figsize=(12, 1.8))
for index in range(16):
    axes[0, index].imshow(kernels[..., index], cmap="RdBu", vmin=-1, vmax=1)
    axes[1, index].imshow(maps[0, ..., index], cmap="gray")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## 13. The result
#
# `@time accuracy(test_x, test_y)`

# %%
network = point.state.program.network
start = time.perf_counter()
probabilities_of = jax.jit(model.predict_proba, static_argnums=0)
parts = [probabilities_of(network, point.state.variables, part) for part in np.split(test_images, 100)]
probabilities = np.concatenate(parts)
said = probabilities.argmax(-1)
right = float((said == test_labels).mean())
print(f"{right:.4f} of {len(said):,} test images in {time.perf_counter() - start:.2f} s")

# %% [markdown]
# Which digit is taken for which? Rows are what was meant, columns what the network said; the diagonal, what is right,
# is left out.

# %%
confusion = np.zeros((10, 10), int)
np.add.at(confusion, (test_labels, said), 1)
wrong = confusion * (1 - np.eye(10, dtype=int))
figure, axis = plt.subplots(figsize=(4.5, 4))
axis.imshow(wrong, cmap="Oranges")
for row, column in zip(*np.nonzero(wrong), strict=True):
    axis.text(column, row, wrong[row, column], ha="center", va="center", fontsize=8)
axis.set(xticks=range(10), yticks=range(10), xlabel="said", ylabel="meant")
plt.show()

# %% [markdown]
# Some of its errors, those that it is most sure of:

# %%
errors = np.flatnonzero(said != test_labels)
errors = errors[np.argsort(-probabilities[errors].max(-1))][:10]
figure, axes = plt.subplots(1, 10, figsize=(12, 1.6))
for axis, index in zip(axes, errors, strict=False):
    axis.imshow(test_images[index, ..., 0], cmap="gray")
    axis.set(xticks=[], yticks=[], title=f"{test_labels[index]}, said {said[index]}")
plt.show()

# %% [markdown]
# ## 14. A new image
#
# `onecold(m(new_image), 0:9)`

# %%
answer = probabilities_of(network, point.state.variables, test_images[0])
print(
    "says", int(answer.argmax()), "is", int(test_labels[0]), "with probability", round(float(answer.max()), 4)
)
if EXAMPLES == 60_000:
    assert int(answer.argmax()) == 7

# %% [markdown]
# ## Exercises
#
# 1. How many parameters has the network with 5 by 5 kernels? Work it out, then ask the package.
#
# <details><summary>answer</summary>
#
# $25 \cdot 16 + 16 + 25 \cdot 16 \cdot 32 + 32 + 25 \cdot 32 \cdot 32 + 32 + 288 \cdot 10 + 10 = 41{,}770$;
# `python -m mmids_cnn.main --config=experiments/base.py --config.model.kernel_size=5 --workdir=runs/five` prints the
# table.
#
# </details>
#
# 2. Is a learning rate of 0.01 better or worse than 0.001 after one epoch? By how much, and is that luck?
#
# <details><summary>answer</summary>
#
# Train each with five seeds (`--config.seed=0` to 4, `--config.num_epochs=1`) and ask `python -m mmids_cnn.compare`
# for the two groups; `experiments/lr_sweep.py` tries eight rates.
#
# </details>
#
# 3. Why is the first loss near 2.3?
#
# <details><summary>answer</summary>
#
# Untrained, each class gets about 0.1, and $-\log 0.1 = 2.303$.
#
# </details>
#
# 4. What does the network say to a digit that is moved by three pixels, or blurred?
#
# <details><summary>answer</summary>
#
# `python -m mmids_cnn.evaluate --workdir=runs/base --shifts` scores images changed in eight ways. Training with
# `--config.augment.shift=2` makes it hold better.
#
# </details>
