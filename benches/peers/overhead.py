"""What the peers' quantisers add to a training step of the MLP of `cargo bench -p qat-trainer --bench training`.

    python overhead.py             # nine rounds of twelve steps
    python overhead.py --record    # and puts the ratios beside ours into benches/results/training.csv

Four layers of 1024×1024 weights and ten classes, batches of 64, 2-bit weights in every layer, AdamW; the peers' activations
stay in floating point. Time is processor time on one thread; the ratio is the median over the rounds of the quotient
of the median steps, each peer in turn with the plain network.
"""

import argparse
import copy
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

import networks
import results
import train

BATCH, STEPS, WIDTH, CLASSES = 64, 12, 1024, 10
CASE, METRIC = "mlp_4x1024", "qat_over_fp32"
HIDDEN = {"op": "linear", "out": WIDTH, "act": "relu"}
RUN = {
    "model": {"layers": [*[HIDDEN] * 4, {"op": "linear", "out": CLASSES}]},
    "train": {},
    "qat": {"bits": 2, "learning_rate": 1e-4},
}


def step_seconds(net, optimiser, x, labels):
    """The median processor time of a step."""
    seconds = []
    for _ in range(STEPS):
        start = time.process_time()
        loss = F.cross_entropy(net(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="put the ratios into benches/results/training.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    x, labels = torch.rand(BATCH, WIDTH), torch.arange(BATCH) % CLASSES
    plain = networks.build(RUN, WIDTH, train.with_bits(nn.Conv2d), train.with_bits(nn.Linear))
    state = copy.deepcopy(plain.state_dict())
    float_step = (plain, train.adamw(RUN, plain))
    figures = []
    for name, prepare in train.PEERS.items():
        quantised_step = prepare(RUN, WIDTH, copy.deepcopy(state))
        ratios = [
            step_seconds(*quantised_step, x, labels) / step_seconds(*float_step, x, labels)
            for _ in range(options.rounds)
        ]
        ratio = statistics.median(ratios)
        print(f"{name:<28} {ratio:.3f}", flush=True)
        figures.append({"case": CASE, "metric": f"{METRIC}_beside_peers", "rival": name, "rival_value": f"{ratio:.3f}"})
    if options.record:
        [ours] = [row for row in results.read(results.path("training")) if (row["case"], row["metric"]) == (CASE, METRIC)]
        figures = [figure | {"value": ours["value"]} for figure in figures]
        results.record("training", figures, "python benches/peers/overhead.py --record")


if __name__ == "__main__":
    main()
