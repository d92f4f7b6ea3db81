"""Times this project's quantisers beside the peers', on the same tensors, in one process, in turn.

    python compare.py                      # prints the two tables
    python compare.py --record             # and puts the ratios into benches/results/quantisers.csv

What is timed:
  lsq_fwd_bwd_4096x4096   forward and backward of LSQ, one step per row, 2 threads: quantised weights, gradient of the
                          weights, gradient of the steps
  scale_grad_4864x896     the gradient of the steps alone, 1 thread; the peers' forward pass is not counted

Every round runs each contestant once, in an order that changes; the tables give medians over the rounds and the range
from the first to the third quartile. The ratio is to copying half the bytes that the operation reads and writes (a copy
moves each twice): the faster of torch's copy_ and the C library's memcpy on the same number of threads, over the same
rounds, times the tensors it would take. Peers allocate their results, as they do in training; to not
time the kernel's page faults instead of them, the allocator keeps freed memory (--stock-allocator: as it comes; slower
for the peers). The Rust kernels are called through `ffi/`, with outputs allocated once, as a trainer does; they start
their threads anew in each call.
"""

import argparse
import csv
import ctypes
import datetime
import gc
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

import torch

import peers

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benches" / "results" / "quantisers.csv"
HEADER = "suite,case,metric,value,unit,goal,rival,rival_value,command,machine,date,commit".split(",")
BITS = 4
LO, HI = -(1 << (BITS - 1)), (1 << (BITS - 1)) - 1
OURS = "qat-kernels"


class Shape(ctypes.Structure):
    _fields_ = [("threads", ctypes.c_size_t), ("rows", ctypes.c_size_t), ("columns", ctypes.c_size_t),
                ("bits", ctypes.c_uint8)]


class Kernels:
    """The Rust kernels on torch's memory."""

    def __init__(self, library, threads, w):
        self.library = library
        self.shape = Shape(threads, *w.shape, BITS)

    def call(self, name, *tensors):
        pointers = []
        for tensor in tensors:
            assert tensor.dtype == torch.float32 and tensor.is_contiguous()
            pointers.append(ctypes.c_void_p(tensor.data_ptr()))
        if getattr(self.library, name)(self.shape, *pointers) != 0:
            sys.exit(f"{name} refused its arguments")


def build():
    """Builds `ffi/` and loads it."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "peers"
    manifest = pathlib.Path(__file__).parent / "ffi" / "Cargo.toml"
    command = ["cargo", "build", "--release", "--quiet", "--manifest-path", manifest, "--target-dir", target]
    subprocess.run(command, check=True)
    return ctypes.CDLL(target / "release" / "libqat_peers.so")


def tensors(rows, columns):
    """Weights that fill the grid and saturate a little at both ends, a step for each row, incoming gradients."""
    torch.manual_seed(1)
    steps = torch.rand(rows) * 0.02 + 0.01
    w = torch.randn(rows, columns) * (steps * HI / 2.5)[:, None]
    return w, steps, torch.randn(rows, columns)


def copies(kernels, w):
    to = torch.zeros_like(w)
    return {"copy (torch)": lambda: to.copy_(w), "copy (memcpy)": lambda: kernels.call("copy", w, to)}


def forward_and_backward(library, threads, with_compile):
    w, steps, g = tensors(4096, 4096)
    kernels = Kernels(library, threads, w)
    leaf_w, leaf_s = w.clone().requires_grad_(), steps.clone().requires_grad_()

    def peer(quantiser):
        def run():
            w_hat = quantiser(leaf_w, leaf_s, LO, HI)
            return w_hat.detach(), *torch.autograd.grad(w_hat, (leaf_w, leaf_s), g)
        return run

    outputs = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(steps)

    def ours(outputs=outputs):
        kernels.call("forward", steps, w, outputs[0])
        kernels.call("backward", steps, w, g, *outputs[1:])
        return outputs

    contestants = {"torch, detach trick": peer(peers.detach)}
    if with_compile:
        contestants["torch.compile, detach trick"] = peer(torch.compile(peers.detach, dynamic=False))
    contestants |= {
        "torch, learnable operator": peer(peers.torch_learnable),
        "torchao": peer(peers.torchao),
        "Brevitas": peer(peers.brevitas_int),
        OURS: ours,
    }
    agree(ours(), contestants["torch, detach trick"]())
    fresh = dict(contestants)
    fresh[OURS] = lambda: ours((torch.empty_like(w), torch.empty_like(w), torch.empty_like(steps)))
    return copies(kernels, w), contestants, fresh


def scale_gradient(library, threads, with_compile):
    w, steps, g = tensors(4864, 896)
    kernels = Kernels(library, threads, w)
    leaf_s = steps.clone().requires_grad_()

    def peer(quantiser):
        w_hat = quantiser(w, leaf_s, LO, HI)
        return lambda: torch.autograd.grad(w_hat, leaf_s, g, retain_graph=True)

    def formula():
        """LSQ's equation 3 in torch operations, nothing else."""
        v = w / steps[:, None]
        level = v.round().clamp(LO, HI)
        return ((torch.where((v >= LO) & (v <= HI), level - v, level) * g).sum(1),)

    out = torch.zeros_like(steps)

    def ours():
        kernels.call("step_gradient", steps, w, g, out)
        return (out,)

    contestants = {
        "torch, formula": formula,
        "torch, detach trick": peer(peers.detach),
        "torch, learnable operator": peer(peers.torch_learnable),
        "torchao": peer(peers.torchao),
        "Brevitas": peer(peers.brevitas_int),
        OURS: ours,
    }
    if with_compile:
        contestants["torch.compile, formula"] = torch.compile(formula, dynamic=False)
    agree(ours(), formula())
    return copies(kernels, w), contestants, {}


def agree(ours, theirs):
    """A quick wrong answer is not a result."""
    for a, b in zip(ours, theirs, strict=True):
        close = (a - b).abs() <= 1e-4 * b.abs().max()
        if not bool(close.all()):
            sys.exit(f"{OURS} and torch disagree: {int((~close).sum())} of {close.numel()} values")


def measure(contestants, rounds):
    """Seconds of every contestant in every round."""
    order = list(contestants)
    times = {name: [] for name in order}
    shuffled = random.Random(1)
    for round_number in range(-2, rounds):  # two to warm up
        shuffled.shuffle(order)
        for name in order:
            began = time.perf_counter()
            result = contestants[name]()
            elapsed = time.perf_counter() - began
            del result
            if round_number >= 0:
                times[name].append(elapsed)
    return times


def peak_memory(run):
    """MiB that `run` holds at its peak beyond what was there before, its results included (Linux)."""
    libc = ctypes.CDLL(None)
    gc.collect()
    libc.malloc_trim(0)
    before = status("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    result = run()
    peak = status("VmHWM")
    del result
    return (peak - before) / 1024


def status(key):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise KeyError(key)


def keep_freed_memory():
    """Serves large tensors from a heap that is never given back, instead of fresh pages from the kernel each time."""
    m_trim_threshold, m_mmap_max = -1, -4
    libc = ctypes.CDLL(None)
    if libc.mallopt(m_mmap_max, 0) != 1 or libc.mallopt(m_trim_threshold, 2**31 - 1) != 1:
        sys.exit("this C library has no mallopt; use --stock-allocator")


def table(title, times, memory, tensors):
    """Prints the table; returns each contestant's ratio to copying so many tensors with the faster copy."""
    medians = {name: statistics.median(values) for name, values in times.items()}
    copy = tensors * min(value for name, value in medians.items() if name.startswith("copy"))
    print(f"\n{title}\n  {'':30}{'median ms':>10}  {'quartiles':>17}  {'x copy':>7}  {'peak MiB':>8}")
    for name in sorted(medians, key=medians.get):
        low, _, high = statistics.quantiles(times[name], n=4)
        mib = f"{memory[name]:8.0f}" if name in memory else ""
        print(f"  {name:30}{medians[name] * 1e3:10.2f}  {low * 1e3:7.2f} – {high * 1e3:7.2f}  "
              f"{medians[name] / copy:7.2f}  {mib}")
    return {name: value / copy for name, value in medians.items() if not name.startswith("copy")}


def record(case, goal, ratios, command):
    """One row for each rival, in place of the earlier rows of the same case and rival."""
    old = []
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != HEADER:
                sys.exit(f"{RESULTS} has another schema")
            old = list(reader)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    common = {
        "suite": "quantisers", "case": case, "metric": "ratio_to_copy_beside_peers", "value": f"{ratios[OURS]:.2f}",
        "unit": "copies", "goal": goal, "command": command, "machine": machine(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), "commit": commit.stdout.strip(),
    }
    rivals = sorted((ratio, name) for name, ratio in ratios.items() if name != OURS)
    new = [common | {"rival": name, "rival_value": f"{ratio:.2f}"} for ratio, name in rivals]

    def key(row):
        return tuple(row[column] for column in ("suite", "case", "metric", "rival"))

    replaced = {key(row) for row in new}
    rows = [row for row in old if key(row) not in replaced] + new
    scratch = RESULTS.with_suffix(".csv.tmp")
    scratch.parent.mkdir(parents=True, exist_ok=True)
    with scratch.open("w", newline="") as file:
        writer = csv.DictWriter(file, HEADER, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    scratch.replace(RESULTS)


def machine():
    """As the other suites write it: processor and number of cores."""
    model = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}; {len(os.sched_getaffinity(0))} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="write the ratios to benches/results/quantisers.csv")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it needs a C++ compiler)")
    parser.add_argument("--stock-allocator", action="store_true", help="let the peers pay for fresh pages in each call")
    options = parser.parse_args()
    if not options.stock_allocator:
        keep_freed_memory()
    library = build()
    # Forward and backward read or write 5 tensors where a copy of one does 2; the scale gradient reads 2.
    suites = (
        ("lsq_fwd_bwd_4096x4096", forward_and_backward, 2, 2.5, "1.3"),
        ("scale_grad_4864x896", scale_gradient, 1, 1.0, "1.5"),
    )
    for case, make, threads, tensors_copied, goal in suites:
        torch.set_num_threads(threads)
        yardsticks, contestants, fresh = make(library, threads, not options.no_compile)
        times = measure(yardsticks | contestants, options.rounds)
        memory = {name: peak_memory(run) for name, run in fresh.items()}
        ratios = table(f"{case}, {threads} thread(s), {options.rounds} rounds", times, memory, tensors_copied)
        if options.record:
            record(case, goal, ratios, " ".join(["python benches/peers/compare.py", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
