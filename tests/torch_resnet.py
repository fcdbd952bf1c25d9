"""The residual networks of the package in PyTorch, under the names that such networks commonly have there.

PyTorch is no dependency: it is imported when a network is made, so that this file can be collected without it.
"""

import copy

import numpy as np

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet8": (1, 1, 1), "resnet8_fine": (1, 1, 1)}


def stage_widths(name, width):
    """Return the channels of each stage."""
    if name == "resnet8_fine":
        return [-(-width // 4), -(-width // 2), width]
    return [width * 2**stage for stage in range(len(BLOCKS[name]))]


def make_torch_resnet(name, width, num_classes=10, channels=3):
    """Return a network of images (batch, channels, height, width)."""
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(outputs)
            self.shortcut = nn.Sequential()
            if stride != 1 or inputs != outputs:
                conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
                self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)))
            return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    class ResNet(nn.Module):
        def __init__(self):
            super().__init__()
            widths = stage_widths(name, width)
            self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(widths[0])
            inputs = widths[0]
            for stage, (count, outputs) in enumerate(zip(BLOCKS[name], widths, strict=True)):
                blocks = []
                for index in range(count):
                    blocks.append(Block(inputs, outputs, 2 if stage > 0 and index == 0 else 1))
                    inputs = outputs
                setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            self.linear = nn.Linear(inputs, num_classes)

        def forward(self, x):
            x = F.relu(self.bn1(self.conv1(x)))
            for stage in range(len(BLOCKS[name])):
                x = getattr(self, f"layer{stage + 1}")(x)
            return self.linear(x.mean((2, 3)))

    return ResNet()


def make_images(seed, number):
    """Ten noisy prototypes: (number, 3, 32, 32) and labels, a tenth of which is wrong."""
    prototypes = np.random.default_rng(0).normal(size=(10, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, number)
    images = 0.5 * prototypes[labels] + rng.normal(size=(number, 3, 32, 32))
    return images.astype(np.float32), np.where(rng.random(number) < 0.1, rng.integers(0, 10, number), labels)


def trained_snapshots(width, number, num_steps=200, every=25, batch_size=32):
    """Return copies of one ResNet-18 in eval mode: after `num_steps` of SGD, and after every `every` more."""
    import torch

    torch.set_num_threads(1)  # threads that wait for each other are slower than one beside other load
    torch.manual_seed(width)
    network = make_torch_resnet("resnet18", width)
    x, y = (torch.tensor(a) for a in make_images(1, 1024))
    optimizer = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=5e-4)
    snapshots = []
    for step in range(1, num_steps + every * (number - 1) + 1):
        rows = torch.randint(len(x), (batch_size,))
        loss = torch.nn.functional.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= num_steps and (step - num_steps) % every == 0:
            optimizer.zero_grad()
            snapshots.append(copy.deepcopy(network).eval())
    return snapshots
