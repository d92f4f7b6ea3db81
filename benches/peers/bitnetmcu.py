"""Trains BitNetMCU's convolutional network on Digits-10k, the rival of the preset `digits-small`.

    python bitnetmcu.py                        # three seeds, as many steps as the preset takes
    python bitnetmcu.py --steps 20000 --seeds 1
    python bitnetmcu.py --record               # and puts the result into benches/results/presets.csv

Written anew in plain torch from the project's description (Boescke 2025, github.com/cpldcpu/BitNetMCU,
docs/documentation.md and docs/documentation_cnn.md), with its numbers:

- 64 filters of 3×3 without padding, then each channel by itself: 3×3, max pooling, 3×3, max pooling, ReLU after each
  convolution; 64·2·2 = 256 features; fully connected 256-96-64-10. 33,088 weights, no biases.
- Weights without a zero: 2 bits in the first fully connected layer, 4 in the other two; 8 bits, with a zero, in the
  convolutions. One scale per layer, from the clipping value that OCTAV finds (Sakr et al. 2022), anew after each
  epoch. 11,264 bytes.
- Before each fully connected layer the features are divided by their root mean square and rounded to 8 bits with a
  scale of each example's own; the convolutions work on unrounded activations (32 bits on the device).
- Straight-through gradients, Adam at 1e-3 along a cosine, batches of 128. An epoch has every image twice: as it is, and
  rotated by ±10° twice, shifted by ±10 % and resized by ±10 %, at 28×28 before it is averaged to 16×16.
"""

import argparse
import time

import torch
from torch import nn
from torch.nn import functional as F

import datasets
import results

BATCH, RATE = 128, 1e-3
MEAN, STD = 0.1307, 0.3081  # of MNIST, as its recipe has them
CASE = "digits_small_2bit"
# Steps of the preset's floating-point and quantised phase together.
STEPS = 62 * 180


def octav(w, bits, iterations=30):
    """The clipping value with the least expected squared error (Sakr et al. 2022, equation 8)."""
    size = w.abs()
    s = size.mean()
    for _ in range(iterations):
        clipped = size > s
        s = size[clipped].sum() / (4.0**-bits / 3 * (~clipped).sum() + clipped.sum())
    return s


class Quantised:
    """Weights on a grid of 2^bits levels up to the clipping value."""

    def prepare(self, bits):
        self.bits = bits
        self.renew()

    def renew(self):
        self.step = octav(self.weight.detach(), self.bits) / 2 ** (self.bits - 1)

    def quantised(self):
        half = 2 ** (self.bits - 1)
        offset = 0.0 if self.bits == 8 else 0.5
        codes = (self.weight / self.step - offset).round().clamp(-half, half - 1)
        return self.weight + ((codes + offset) * self.step - self.weight).detach()


class Conv(nn.Conv2d, Quantised):
    def __init__(self, inputs, outputs, groups):
        super().__init__(inputs, outputs, 3, groups=groups, bias=False)
        self.prepare(8)

    def forward(self, x):
        return F.conv2d(x, self.quantised(), groups=self.groups)


class Linear(nn.Linear, Quantised):
    def __init__(self, inputs, outputs, bits):
        super().__init__(inputs, outputs, bias=False)
        self.prepare(bits)

    def forward(self, x):
        x = x / x.square().mean(-1, keepdim=True).sqrt()
        scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5)
        rounded = (x * scale).round().clamp(-128, 127) / scale
        return F.linear(x + (rounded - x).detach(), self.quantised())


def network():
    return nn.Sequential(
        Conv(1, 64, 1), nn.ReLU(), Conv(64, 64, 64), nn.ReLU(), nn.MaxPool2d(2),
        Conv(64, 64, 64), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        Linear(256, 96, 2), nn.ReLU(), Linear(96, 64, 4), nn.ReLU(), Linear(64, 10, 4),
    )  # fmt: skip


def weight_bytes(net):
    return sum(layer.weight.numel() * layer.bits for layer in net if isinstance(layer, Quantised)) // 8


def train(seed, steps, quiet):
    """Share of the test images that the network of a seed classifies correctly, and its bytes."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    large, labels, _, _ = datasets.digits(28)
    small, _, test, test_labels = datasets.digits(16)
    normal = lambda x: (x / 255 - MEAN) / STD
    test = normal(test)
    net = network()
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    count = len(small)
    per_epoch = 2 * count // BATCH
    epochs = steps / per_epoch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    done, start = 0, time.time()
    while done < steps:
        for rows in datasets.batches(2 * count, BATCH, generator)[: steps - done]:
            plain, bent = rows[rows < count], rows[rows >= count] - count
            distorted = datasets.distort(large[bent], 0.0, generator, shift=2.8, rotate=10, scale=0.1, turns=2)
            x = normal(torch.cat([small[plain], datasets.shrink(distorted, 16)]))
            loss = F.cross_entropy(net(x), labels[torch.cat([plain, bent])])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            done += 1
        for layer in net:
            if isinstance(layer, Quantised):
                layer.renew()
        if not quiet:
            print(f"seed {seed}, epoch {done / per_epoch:.0f} of {epochs:.0f}: loss {loss.item():.4f}", flush=True)
    with torch.no_grad():
        accuracy = (net(test).argmax(-1) == test_labels).float().mean().item()
    return accuracy, weight_bytes(net), time.time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps (default: the preset's)")
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 1")
    parser.add_argument("--quiet", action="store_true", help="no line after each epoch")
    parser.add_argument("--record", action="store_true", help="put the mean into benches/results/presets.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    shares = []
    for seed in range(1, options.seeds + 1):
        accuracy, size, seconds = train(seed, options.steps, options.quiet)
        shares.append(100 * accuracy)
        print(f"seed {seed}: {100 * accuracy:.2f} % with {size} weight bytes, {seconds:.0f} s", flush=True)
    mean = sum(shares) / len(shares)
    print(f"mean {mean:.2f} %, spread {max(shares) - min(shares):.2f} %")
    if options.record:
        [ours] = [row for row in results.read(results.path("presets")) if (row["case"], row["metric"]) == (CASE, "accuracy_mean")]
        rival = f"BitNetMCU's CNN, {size} weight bytes, {options.steps} steps"
        figure = {"case": CASE, "metric": "accuracy_beside_peers", "value": ours["value"], "unit": "%"}
        command = f"python benches/peers/bitnetmcu.py --seeds {options.seeds} --record"
        results.record("presets", [figure | {"rival": rival, "rival_value": f"{mean:.2f}"}], command)


if __name__ == "__main__":
    main()
