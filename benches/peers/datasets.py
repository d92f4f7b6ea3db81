"""The data sets of the presets as tensors, prepared as `qat` prepares them, and its distortions of images.

Read by the scripts that train peers. Everything random comes from the generator that is passed in.
"""

import csv
import gzip
import math
import pathlib

import numpy as np
import torch
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "data"


def idx(name):
    """The array of an IDX file of unsigned bytes (LeCun et al. 1998)."""
    blob = gzip.decompress((DATA / f"{name}.gz").read_bytes())
    rank = blob[3]
    shape = np.frombuffer(blob, ">u4", rank, 4)
    return torch.from_numpy(np.frombuffer(blob, np.uint8, offset=4 + 4 * rank).reshape(shape).copy())


def overlaps(old, new):
    """Matrix that averages `old` pixels to `new` ones by the area they share."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old, dtype=torch.float64)
    shared = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (shared.clamp(min=0) * new / old).float()


def shrink(images, size):
    """Area-averaged images (n × 1 × size × size)."""
    matrix = overlaps(images.shape[-1], size)
    return matrix @ images @ matrix.T


def digits(size):
    """Digits-10k: (training images, labels, test images, labels), n × 1 × size × size, grey values from 0 to 255."""
    halves = []
    for half in ("train", "test"):
        images = idx(f"digits10k-{half}-images-idx3-ubyte")[:, None].float()
        if size != images.shape[-1]:
            images = (shrink(images, size) + 0.5).floor()
        halves += [images, idx(f"digits10k-{half}-labels-idx1-ubyte").long()]
    return halves


def letter():
    """Letter recognition: (training features, labels, test features, labels), 16 features of a letter."""
    halves = []
    for half in ("train", "test"):
        with gzip.open(DATA / f"letter-{half}.csv.gz", "rt", newline="") as file:
            rows = list(csv.reader(file))[1:]
        halves.append(torch.tensor([[float(x) for x in row[1:]] for row in rows]))
        halves.append(torch.tensor([ord(row[0]) - ord("A") for row in rows]))
    return halves


def watch(data):
    """Series of an NPZ file, split by group as the section `[data]` of a run description says: (training series, labels,
    test series, labels), n × channels × time × 1.
    """
    path = ROOT / data["train"]
    if not path.exists():
        raise SystemExit(f"{path} is missing: run `cargo xtask data imu`")
    with np.load(path) as arrays:
        series = torch.from_numpy(arrays["x"]).transpose(1, 2)[..., None].contiguous()
        labels = torch.from_numpy(np.unique(arrays["y"], return_inverse=True)[1])
        groups = arrays[data["split"]["group"]].astype(str)
    in_test = torch.from_numpy(np.isin(groups, data["split"]["test"]))
    return series[~in_test], labels[~in_test], series[in_test], labels[in_test]


def standardise(train, test, each):
    """Both with mean 0 and standard deviation 1 over the training half.

    `each`: whether every channel, or column of a table, has a pair of its own; else there is one pair for all pixels,
    whose mean is a whole grey value.
    """
    axes = [axis for axis in range(train.dim()) if not each or axis != 1]
    mean = train.double().mean(axes, keepdim=True)
    std = train.double().std(axes, unbiased=False, keepdim=True).float()
    mean = (mean if each else mean.round()).float()
    return (train - mean) / std, (test - mean) / std


def distort(images, background, generator, shift=0, rotate=0, scale=0, shear=0, warp=0, turns=1):
    """Images distorted at random as `[train] augment` says, by bilinear sampling; `background` moves in from outside.

    `turns` rotations are drawn one after the other.
    """
    n, size = images.shape[0], images.shape[-1]

    def uniform(bound, *shape):
        return (torch.rand(*shape, generator=generator) * 2 - 1) * bound

    angle = uniform(math.radians(rotate), n, turns).sum(1)
    factor = 1 + uniform(scale, n)
    sin, cos, slant = angle.sin() / factor, angle.cos() / factor, uniform(shear, n)
    moved = uniform(2 * shift / size, n, 2)  # torch's image reaches from -1 to 1
    # From new to old places: first the slant, then the turn, of (x, y).
    linear = torch.stack([torch.stack([cos, sin - cos * slant], 1), torch.stack([-sin, cos + sin * slant], 1)], 1)
    theta = torch.cat([linear, -(linear @ moved[:, :, None])], 2)
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    if warp:
        points = uniform(2 * warp / size, n, 2, 5, 5)
        grid = grid + F.interpolate(points, images.shape[-2:], mode="bilinear", align_corners=True).movedim(1, -1)
    return F.grid_sample(images - background, grid, align_corners=False) + background


def batches(count, batch, generator):
    """Shuffled indices of whole batches of one epoch; what is left over comes again in another epoch's order."""
    order = torch.randperm(count, generator=generator)
    return order[: count // batch * batch].view(-1, batch)
