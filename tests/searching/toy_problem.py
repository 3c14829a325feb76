"""A network and images so small that a whole search takes a second; the command line finds both by name."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 4


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Network(nn.Module):
    """Two residual blocks: groups inside the blocks, and one residual stream."""

    def __init__(self, channels=1, classes=CLASSES, width=8):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.block1, self.block2 = Block(width), Block(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.block2(self.block1(torch.relu(self.stem(x)))).mean((2, 3)))


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network().eval()


def wide():
    return Network(width=12)


def three_channels():
    return Network(channels=3)


def too_few_outputs():
    return Network(classes=2)


def not_finite():
    model = Network()
    model.head.weight.data[0, 0] = float("nan")
    return model


def stream_only():
    """Returns a network whose only prunable channels are in its residual stream."""

    class StreamOnly(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.conv(x)).mean((2, 3)))

    return StreamOnly()


def broken():
    raise ValueError("the factory broke\nfor a reason of two lines")


def not_a_network():
    return 5


def transformer():
    """Returns a transformer of one layer on patches of 2 by 2, with torch's own attention."""

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches = nn.Conv2d(1, 12, 2, stride=2)
            self.places = nn.Parameter(torch.randn(1, 16, 12))
            self.layer = nn.TransformerEncoderLayer(12, 4, 20, dropout=0.0, batch_first=True, norm_first=True)
            self.head = nn.Linear(12, CLASSES)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2) + self.places
            return self.head(self.layer(x).mean(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Transformer().eval()


def sets(count=160):
    """Returns training and test images whose brightest quarter tells the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % CLASSES
    images = torch.rand(count, 1, 8, 8, generator=generator)
    for index, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[index, 0, row : row + 4, column : column + 4] += 1
    cut = 3 * count // 4
    return TensorDataset(images[:cut], labels[:cut]), TensorDataset(images[cut:], labels[cut:])


def loaders():
    train, test = sets()
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(test, batch_size=16)


def broken_data():
    raise OSError("the disk is on fire")
