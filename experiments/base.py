"""The reference recipe: MNIST, a CNN of 16,938 parameters, Adam, ten epochs.

Source: "Mathematical Methods in Data Science" (S. Roch, UW-Madison, 2020), notebook on multiclass
classification. Expected: 98.93 ± 0.04 % (n = 5); 30 to 50 seconds on 2 cores.

    python -m mmids_cnn.main --config=experiments/base.py

This file is the whole configuration tree. Other experiments start from it and change a few leaves; on the
command line every leaf is an override, `--config.optimizer.learning_rate=3e-4`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the complete configuration of the reference recipe."""
    config = ConfigDict()
    config.seed = 0  # the one seed: initial weights and order of examples; 0 to 2**32 - 1
    config.num_epochs = 10  # passes over the training split; >= 1
    config.batch_size = 128  # images a step, at most all; >= 1; the last, smaller batch of an epoch is kept
    config.report = True  # write report.html at the end, where matplotlib is installed; a sweep always does

    config.dataset = ConfigDict()
    config.dataset.name = "mnist"  # a TFDS name, or any name for the set in `archives`
    config.dataset.data_dir = ""  # where TFDS keeps prepared data; "" is TFDS's own default
    config.dataset.archives = ""  # folder of IDX archives (gzip or plain); "" is the shipped MNIST
    config.dataset.validation_examples = 0  # held out from the end of the training split; >= 0
    config.dataset.placement = "auto"  # "resident" on the device, "streamed" to it, or "auto" by size

    config.model = ConfigDict()
    config.model.name = "conv_net"  # of `mmids_cnn.networks`, or "module:Class", a Linen module of your own
    config.model.channels = (16, 32, 32)  # output channels of each convolution block; each 1 to 2**16
    config.model.kernel_size = 3  # side of the square kernels, pixels; odd, 1 to 99

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # "adam", "adamw", "lion", "sgd" (b1 is then the momentum), or your own
    config.optimizer.learning_rate = 1e-3  # the peak, where a schedule changes it; > 0
    config.optimizer.b1 = 0.9  # decay of the mean of gradients; 0 <= b1 < 1
    config.optimizer.b2 = 0.999  # decay of the mean of squared gradients; 0 <= b2 < 1
    config.optimizer.eps = 1e-8  # added to the denominator; > 0
    config.optimizer.weight_decay = 0.0  # decoupled, for "adamw" and "lion"; >= 0
    config.optimizer.schedule = "constant"  # "constant", "cosine", "one_cycle" or your own, over all epochs
    config.optimizer.warmup_fraction = 0.0  # part of all steps with rising rate; 0 <= f < 1

    config.augment = ConfigDict()  # random changes of the training images, each up to so much; 0: none
    config.augment.names = ("flip", "affine", "cutout")  # done in this order; or your own, "module:function"
    config.augment.flip = 0.0  # probability that an image is mirrored left to right; 0 to 1
    config.augment.shift = 0.0  # pixels, along each side; 0 to 128
    config.augment.rotation = 0.0  # degrees, either way; 0 to 180
    config.augment.scale = 0.0  # larger or smaller by this fraction; 0 to 0.5
    config.augment.shear = 0.0  # pixels a row is moved for each pixel that it is off the middle; 0 to 1
    config.augment.cutout = 0.0  # side of a square that is blackened, pixels; 0 to 4096

    config.train = ConfigDict()
    config.train.loss = "cross_entropy"  # what is minimised: "cross_entropy", "squared_error" or your own
    config.train.label_smoothing = 0.0  # mass spread evenly over all classes; 0 <= s < 1
    config.train.clip_norm = 0.0  # longer gradients are cut to this norm, of all parameters; 0: never
    config.train.average_decay = (
        0.0  # kept a step by the average of weights that is scored, once risen; 0: none
    )
    config.train.patience = 0  # epochs without a better validation accuracy that end training; 0: none do
    config.train.groups = 0  # parts of a batch summed apart; N: the same bits on 1 to N accelerators
    config.train.precision = "float32"  # of products: "tensorfloat32", "bfloat16" on accelerators alone
    config.train.on_nonfinite = "stop"  # a loss that is not finite: "stop", or "skip" that step

    config.eval = ConfigDict()
    config.eval.metrics = ("loss", "accuracy")  # both, and "brier" or your own; loss is cross-entropy, nats
    config.eval.every_epochs = 1  # evaluate after every N epochs; 0: only at the end
    config.eval.every_seconds = 0.0  # and at most once in S seconds while training; 0: not by time
    config.eval.batch_size = 1000  # images scored at a time (at most 50 on a CPU); >= 1; changes speed alone

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # save after every N epochs; 0: only at the end
    config.checkpoint.every_seconds = 0.0  # and at most once in S seconds; 0: not by time
    config.checkpoint.keep = 3  # newest checkpoints kept, beside the best one; >= 1

    config.tensorboard = (
        False  # write RUN/tensorboard too (extra "tensorboard"); `metrics.jsonl` is the record
    )
    return config
