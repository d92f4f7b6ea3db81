"""Trains the network of a preset with the peers' quantisers and with `qat`, on the same data for as many epochs.

    cargo build --release -p qat-trainer
    cargo xtask data imu                               # for the preset imu
    python train.py letter digits imu                  # one seed each
    python train.py letter digits imu --seeds 3 --record

For each seed one network is trained in floating point, as the preset says; every peer then takes it into the same
number of epochs of quantised training: AdamW, the preset's rates along a cosine and its weight decay, its batches,
distortions and running average, and as teacher, where the preset has itself as one, the network that the peers began
with. The bits of every layer are the preset's. `qat` runs the preset itself: its own floating-point phase, and 8-bit
activations on the integer engine, while the peers' activations stay in floating point here, in their favour; `qat`
folds batch normalisation before its quantised phase, the peers keep it. Random numbers differ.

The quantisers, all with one scale per output channel and straight-through gradients:

- torchao: `IntxFakeQuantizer`, symmetric, the scale from the largest weight, anew in each step; and the same with
  `range_learning`, which learns it. (torchao's own modules are linear layers; convolutions use the quantiser on the
  flattened filters.)
- PARQ, in torchao: `QuantOptimizer` with ParetoQ's stretched quantiser, four levels without a zero, hard quantisation in
  each step. It takes convolutions as they are.
- Brevitas: `QuantConv2d` and `QuantLinear`, the scale learned from its start at the largest weight, all levels used.

Time is the processor time of a quantised step, the next batch included, on one thread, so that a busy machine disturbs
little: the median over the steps, for `qat` over the epochs of each epoch's mean (all its threads together). The peers
keep torch's own layout of images: channels last makes some of them faster and others slower.
"""

import argparse
import copy
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
from brevitas.inject.enum import ScalingImplType
from brevitas.nn import QuantConv2d, QuantLinear
from brevitas.quant import Int8WeightPerChannelFloat
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torchao.prototype.parq.optim import ProxHardQuant, QuantOptimizer
from torchao.prototype.parq.quant import StretchedUnifTorchaoQuantizer, UnifTorchaoQuantizer
from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer, initialize_fake_quantizers

import datasets
import networks
import results

ROOT = results.ROOT
BITS = {2: torch.int2, 3: torch.int3, 4: torch.int4, 8: torch.int8}
OURS = "qat"


class Flat(nn.Module):
    """A quantiser of rows, on the weights of any layer."""

    def __init__(self, bits, learned):
        super().__init__()
        self.quantiser = IntxFakeQuantizer(
            IntxFakeQuantizeConfig(
                BITS[bits], "per_channel", is_symmetric=True, is_dynamic=not learned, range_learning=learned
            )
        )

    def forward(self, w):
        return self.quantiser(w.flatten(1)).view_as(w)


def with_bits(made):
    """Makes a layer and notes its bits."""

    def make(*arguments, bits, **options):
        layer = made(*arguments, **options)
        layer.bits = bits
        return layer

    return make


def torchao(learned):
    def prepare(run, channels, state):
        net = float_network(run, channels, state)
        for layer in weighted(net):
            quantiser = Flat(layer.bits, learned)
            # Its first call finds the scales, so that the optimiser sees those that are learned.
            initialize_fake_quantizers(quantiser, (layer.weight.detach(),))
            parametrize.register_parametrization(layer, "weight", quantiser)
        return net, adamw(run, net)

    return prepare


def parq(run, channels, state):
    net = float_network(run, channels, state)
    layers = weighted(net)
    decayed = {id(layer.weight) for layer in layers}
    groups = [{"params": [p for p in net.parameters() if id(p) not in decayed], "weight_decay": 0.0}]
    quantisers = {}
    for index, layer in enumerate(layers):
        groups.append({"params": [layer.weight], "quant_bits": layer.bits, "weight_decay": decay(run)})
        # Stretched levels of 8 bits do not fit torchao's bytes.
        quantisers[index] = UnifTorchaoQuantizer() if layer.bits == 8 else StretchedUnifTorchaoQuantizer(layer.bits)
    base = torch.optim.AdamW(groups, run["qat"]["learning_rate"])
    optimiser = QuantOptimizer(
        base, quantisers[0], ProxHardQuant(), quant_period=1, quant_per_channel=True, group_quantizer_map=quantisers
    )
    return net, optimiser


def brevitas(run, channels, state):
    class Weights(Int8WeightPerChannelFloat):
        narrow_range = False
        scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS

    def make(layer):
        def made(*arguments, bits, **options):
            return layer(*arguments, weight_quant=Weights, weight_bit_width=bits, **options)

        return made

    net = networks.build(run, channels, make(QuantConv2d), make(QuantLinear))
    net.load_state_dict(state, strict=False)  # the scales come from the loaded weights
    return net, adamw(run, net)


PEERS = {
    "torchao": torchao(learned=False),
    "torchao, learned ranges": torchao(learned=True),
    "PARQ (torchao), stretched": parq,
    "Brevitas": brevitas,
}


def float_network(run, channels, state):
    net = networks.build(run, channels, with_bits(nn.Conv2d), with_bits(nn.Linear))
    net.load_state_dict(state)
    return net


def weighted(net):
    return [layer for layer in net if isinstance(layer, (nn.Conv2d, nn.Linear))]


def adamw(run, net):
    return torch.optim.AdamW(parameters(run, net), run["qat"]["learning_rate"])


def decay(run):
    """The preset's weight decay, or the default of `qat`."""
    return run["train"].get("weight_decay", 1e-4)


def parameters(run, net):
    """Decay is for the weights of layers, as `qat` has it: not for biases, batch normalisation and scales."""
    decayed, others = [], []
    for name, parameter in net.named_parameters():
        is_weight = parameter.ndim > 1 and not any(part in name for part in ("scale", "scaling", "quantiser"))
        (decayed if is_weight else others).append(parameter)
    return [{"params": decayed, "weight_decay": decay(run)}, {"params": others, "weight_decay": 0.0}]


class Data:
    """Both halves, standardised, and the batches of an epoch."""

    def __init__(self, run):
        match run["data"]["format"]:
            case "idx":
                halves = datasets.digits(run["data"]["resize"][0])
            case "npz":
                halves = datasets.watch(run["data"])
            case _:
                halves = datasets.letter()
        train, self.labels, test, self.test_labels = halves
        self.channels = train.shape[1]
        each = run["data"]["format"] != "idx"
        self.train, self.test = datasets.standardise(train, test, each)
        self.background = datasets.standardise(train, torch.zeros_like(train[:1]), each)[1].flatten()[0].item()
        self.bounds = run["train"].get("augment")
        self.batch = run["train"].get("batch", 128)

    def epoch(self, generator):
        for rows in datasets.batches(len(self.train), self.batch, generator):
            x = self.train[rows]
            if self.bounds:
                x = datasets.distort(x, self.background, generator, **self.bounds)
            yield x, self.labels[rows]


class Average:
    """The running average of all that is learned, which replaces it in the end: `ema` of `[train]`."""

    def __init__(self, decay, optimiser):
        self.decay, self.optimiser, self.average = decay, optimiser, None

    def learned(self):
        """The parameters, in place of PARQ's quantised ones those that it learns."""
        state = self.optimiser.state
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        return [state.get(p, {}).get("latent", p).detach() for p in parameters]

    def move(self):
        if self.average is None:
            self.average = [p.clone() for p in self.learned()]
        else:
            torch._foreach_lerp_(self.average, self.learned(), 1 - self.decay)

    def settle(self):
        for parameter, average in zip(self.learned(), self.average):
            parameter.copy_(average)
        # PARQ quantises in its steps; one of rate 0 changes nothing else.
        for group in self.optimiser.param_groups:
            group["lr"] = 0.0
        self.optimiser.step()


def loss_of(net, x, labels, teacher, spec):
    """Cross entropy, and how far the answers are from those of a teacher, as `[distill]` says."""
    logits = net(x)
    loss = F.cross_entropy(logits, labels)
    if teacher is None:
        return loss
    temperature = spec["temperature"]
    with torch.no_grad():
        answers = F.log_softmax(teacher(x) / temperature, -1)
    apart = F.kl_div(F.log_softmax(logits / temperature, -1), answers, reduction="batchmean", log_target=True)
    return loss + spec["weight"] * temperature**2 * apart


def fit(run, net, optimiser, rates, epochs, data, generator, teacher=None):
    """Trains; returns the processor seconds of each step, from one to the next."""
    seconds = []
    steps = epochs * (len(data.train) // data.batch)
    ema = run["train"].get("ema", 0)
    average = Average(ema, optimiser) if ema else None
    peaks = [group["lr"] for group in optimiser.param_groups]
    net.train()
    last = time.process_time()
    for _ in range(epochs):
        for x, labels in data.epoch(generator):
            factor = rates(len(seconds), steps)
            for group, peak in zip(optimiser.param_groups, peaks):
                group["lr"] = peak * factor
            loss = loss_of(net, x, labels, teacher, run.get("distill"))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            if average:
                average.move()
            now = time.process_time()
            seconds.append(now - last)
            last = now
    if average:
        average.settle()
    return seconds


def cosine(warm_up):
    """The schedule of `qat`: a line up over `warm_up` steps, then half a cosine."""

    def factor(step, steps):
        if step < warm_up:
            return (step + 1) / warm_up
        share = (step - warm_up) / max(steps - warm_up, 1)
        return float(0.5 * (1 + torch.cos(torch.tensor(share * torch.pi))))

    return factor


def accuracy(net, data):
    net.eval()
    with torch.no_grad():
        return 100 * (net(data.test).argmax(-1) == data.test_labels).float().mean().item()


def ours(preset, seed, epochs):
    """Float and integer accuracy of `qat train`, and the seconds of a quantised step."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as messages:
        command = [target / "release" / "qat", "train", "--preset", preset, "--seed", str(seed), "--json", "--out", folder]
        if epochs:
            command += ["--set", f"train.epochs={epochs}", "--set", f"qat.epochs={epochs}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        metrics = pathlib.Path(folder, "metrics.jsonl")
        pipes = {"stdout": subprocess.PIPE, "stderr": messages, "text": True}
        with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
            ends = epoch_ends(process, metrics)
            text = process.stdout.read()
        if process.returncode:
            messages.seek(0)
            raise SystemExit(messages.read())
        summary = json.loads(text)
        events = [json.loads(line) for line in metrics.read_text().splitlines()]
    return 100 * summary["fp32_accuracy"], 100 * summary["int_accuracy"], step_seconds(events, ends)


def epoch_ends(process, metrics):
    """The processor time that a running training had taken at the end of each quantised epoch, of all its threads."""
    clock = (~process.pid << 3) | 2  # as clock_getcpuclockid(3) makes it
    mark = '"event":"epoch-done","phase":"quantised"'
    ends, rest = [], ""
    while not metrics.exists():
        if process.poll() is not None:
            return []
        time.sleep(0.01)
    with metrics.open() as text:
        while process.poll() is None:
            rest += text.read()
            if mark in rest:
                ends.append(time.clock_gettime(clock))
                rest = rest.split(mark, 1)[1]
            rest = rest[-len(mark) :]
            time.sleep(0.005)
    return ends


def step_seconds(events, ends):
    """Of an epoch's processor time the steps get their share of its time on the clock; the median over the epochs."""
    steps, done = {}, {}
    for event in events:
        if event.get("phase") == "quantised":
            if event["event"] == "step-done":
                steps.setdefault(event["epoch"], []).append(event["seconds"])
            elif event["event"] == "epoch-done":
                done[event["epoch"]] = event["seconds"]
    seconds = []
    for epoch in range(2, len(ends) + 1):
        times = steps[epoch]
        share = (times[-1] - times[0]) / (done[epoch] - done[epoch - 1])
        seconds.append(share * (ends[epoch - 1] - ends[epoch - 2]) / (len(times) - 1))
    return statistics.median(seconds)


def compare(preset, seeds, epochs):
    """Accuracies, seed by seed, and milliseconds per step of everybody."""
    run = networks.read(preset)
    if run.get("distill", {}).get("teacher", "self") != "self":
        raise SystemExit(f"{preset}: no other teacher than the floating-point network itself is known here")
    data = Data(run)
    spec, qat = run["train"], run["qat"]
    if epochs:
        spec["epochs"] = qat["epochs"] = epochs
    shares, milliseconds = {}, {}

    def note(name, share, seconds=None):
        shares.setdefault(name, []).append(share)
        if seconds is not None:
            milliseconds.setdefault(name, []).append(1000 * seconds)
        print(f"{preset}, seed {seed}: {name:<28} {share:6.2f} %", flush=True)

    for seed in range(1, seeds + 1):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        net = networks.build(run, data.channels, with_bits(nn.Conv2d), with_bits(nn.Linear))
        optimiser = torch.optim.AdamW(parameters(run, net), spec["lr"])
        fit(run, net, optimiser, cosine(len(data.train) // data.batch), spec["epochs"], data, generator)
        note("torch, floating point", accuracy(net, data))
        teacher = net if "distill" in run else None  # `accuracy` left it with its statistics fixed
        for name, prepare in PEERS.items():
            generator = torch.Generator().manual_seed(1000 + seed)
            net_quantised, optimiser = prepare(run, data.channels, copy.deepcopy(net.state_dict()))
            seconds = fit(run, net_quantised, optimiser, cosine(0), qat["epochs"], data, generator, teacher)
            note(name, accuracy(net_quantised, data), statistics.median(seconds))
        fp32, integer, step = ours(preset, seed, epochs)
        note(f"{OURS}, floating point", fp32)
        note(OURS, integer, step)
    return shares, {name: statistics.mean(times) for name, times in milliseconds.items()}, networks.weight_bytes(
        run, data.channels
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("presets", nargs="+", help="digits, letter, imu or another sequence of layers on their data")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from 1")
    parser.add_argument("--epochs", type=int, help="of each phase, at least 2 (default: the preset's)")
    parser.add_argument("--record", action="store_true", help="put the means into benches/results/presets.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for preset in options.presets:
        shares, milliseconds, size = compare(preset, options.seeds, options.epochs)
        means = {name: statistics.mean(values) for name, values in shares.items()}
        print(f"\n{preset}: {size} weight bytes, {options.seeds} seed(s)\n{'':<28} accuracy %   spread   ms a step")
        for name, mean in sorted(means.items(), key=lambda item: item[1]):
            spread = max(shares[name]) - min(shares[name])
            time_of = f"{milliseconds[name]:11.1f}" if name in milliseconds else ""
            print(f"{name:<28} {mean:10.2f} {spread:8.2f} {time_of}")
        if options.record:
            case = f"{preset.replace('-', '_')}_2bit"
            command = f"python benches/peers/train.py {preset} --seeds {options.seeds} --record"
            figures = []
            for name in PEERS:
                row = {"case": case, "rival": name}
                figures.append(
                    row | {"metric": "accuracy_beside_peers", "value": f"{means[OURS]:.2f}", "unit": "%",
                           "rival_value": f"{means[name]:.2f}"}
                )  # fmt: skip
                figures.append(
                    row | {"metric": "step_milliseconds_beside_peers", "value": f"{milliseconds[OURS]:.1f}",
                           "unit": "ms", "rival_value": f"{milliseconds[name]:.1f}"}
                )  # fmt: skip
            results.record("presets", figures, command)


if __name__ == "__main__":
    main()
