"""The networks in PyTorch: channels_last, eager or (`--compile`) through `torch.compile`.

The data are resident, one tensor of bytes indexed by a permutation; there is no DataLoader.
ReLU in place and the fused form of Adam save about a tenth and a fiftieth of a step.
"""

from argparse import Namespace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from protocol import Data, serve

EVALUATION_BATCH = 100  # the fastest of 100, 250 and 1000: larger activations leave the cache


def network(channels: list[int]) -> nn.Sequential:
    """Three times convolution, ReLU and pooling, then a linear map to ten logits."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise([1, *channels]):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * channels[-1], 10))
    for name, parameter in model.named_parameters():
        nn.init.zeros_(parameter) if name.endswith("bias") else nn.init.xavier_uniform_(parameter)
    return model.to(memory_format=torch.channels_last)


def normed(channels: list[int], depths: list[int], flatten: bool, dropout: float) -> nn.Sequential:
    """Stages of 3x3 convolutions with batch norm, pooled in between; pixels or their mean; a linear map."""
    widths = [1] + [width for width, depth in zip(channels, depths, strict=True) for _ in range(depth)]
    ends = {sum(depths[: stage + 1]) - 1 for stage in range(len(depths) - 1)}
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        layers += [nn.MaxPool2d(2)] if index in ends else []
        layers += [nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.05), nn.ReLU(inplace=True)]
    pixels = (28 // 2 ** (len(depths) - 1)) ** 2 if flatten else 1
    layers += [] if flatten else [nn.AdaptiveAvgPool2d(1)]
    layers += [nn.Flatten(), nn.Dropout(dropout), nn.Linear(pixels * widths[-1], 10)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def make(settings: dict[str, Any]) -> nn.Sequential:
    """The network of an experiment."""
    if settings["name"] == "conv_net":
        return network(settings["channels"])
    return normed(*(settings[name] for name in ("channels", "depths", "flatten", "dropout")))


class TorchRunner:
    """Training state and data; images uint8 [N, 1, 28, 28]."""

    def __init__(self, args: Namespace, data: Data) -> None:
        torch.manual_seed(args.seed)
        self.batch_size = args.batch_size
        self.model = make(args.model or {"name": "conv_net", "channels": args.channels})
        self.forward = torch.compile(self.model) if args.compile else self.model
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.images = torch.from_numpy(data.train_images).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(data.train_labels).long()
        self.test_images = torch.from_numpy(data.test_images).permute(0, 3, 1, 2)
        self.test_labels = torch.from_numpy(data.test_labels).long()

    def logits(self, images: Tensor) -> Tensor:
        return self.forward((images.float() / 255).contiguous(memory_format=torch.channels_last))

    def train(self, indices: Tensor) -> None:
        loss = nn.functional.cross_entropy(self.logits(self.images[indices]), self.labels[indices])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def step(self) -> None:
        self.train(torch.arange(self.batch_size))

    def prepare(self) -> None:
        self.train(torch.arange(len(self.images) % self.batch_size or self.batch_size))
        self.step()  # a graph that became dynamic at the other size is compiled here
        self.evaluate()

    def epoch(self) -> None:
        for indices in torch.randperm(len(self.images)).split(self.batch_size):
            self.train(indices)

    @torch.inference_mode()
    def evaluate(self) -> float:
        self.model.eval()  # batch norm by its running averages, no dropout
        batches = self.test_images.split(EVALUATION_BATCH)
        predicted = torch.cat([self.logits(images).argmax(1) for images in batches])
        self.model.train()
        return float((predicted == self.test_labels).double().mean())


if __name__ == "__main__":
    serve(TorchRunner, ["torch", "numpy"])
