"""A training step of the decoder of `cargo xtask gpu` in PyTorch, on the same GPU: plain, and with torchao's 2-bit quantiser.

    python gpu_step.py                    # three steps to warm up, ten that are timed
    python gpu_step.py --compile          # and once more through torch.compile
    python gpu_step.py --record           # and puts the figures beside ours into benches/results/gpu.csv
    python gpu_step.py --out FILE.csv     # or into a file that `cargo xtask gpu --record FILE.csv` takes in

The model is transformers' Qwen2 in the shape of Qwen2.5-0.5B with drawn weights, batches of 8×512 tokens, weights and moments
in f32, products in bf16 by autocast, torch's fused AdamW, attention by torch's fused operator. torchao's quantiser,
where it is installed, is that of its own QAT layers: `IntxFakeQuantizer`, 2 bits, one scale per row from the largest weight,
on every matrix of the blocks.
"""

import argparse
import statistics
import time

import torch
from torch.nn.utils import parametrize
from transformers import Qwen2Config, Qwen2ForCausalLM

import results

BATCH, TIME, VOCABULARY = 8, 512, 151_936
WARM_UP = 3
CASE = "qwen_0_5b"


def model():
    """In f32, as drawn."""
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    with torch.device("cuda"):
        return Qwen2ForCausalLM(config).train()


def quantised():
    """The same with torchao's quantiser on the matrices of its blocks."""
    from torchao.quantization.qat import IntxFakeQuantizeConfig, IntxFakeQuantizer

    net = model()
    config = IntxFakeQuantizeConfig(torch.int2, "per_channel", is_symmetric=True)
    for layer in net.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            parametrize.register_parametrization(layer, "weight", IntxFakeQuantizer(config))
    return net


def measure(net, rounds, compiled):
    """Milliseconds of a step (median) and the memory of tensors at most, in 10⁹ bytes."""
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    ids = (torch.arange(BATCH * TIME + 1, device="cuda") * 7919) % VOCABULARY
    tokens, targets = ids[:-1].view(BATCH, TIME), ids[1:]

    def loss_of(tokens, targets):
        with torch.autocast("cuda", torch.bfloat16):
            logits = net(tokens).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets)

    if compiled:
        loss_of = torch.compile(loss_of)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    losses, seconds = [], []
    for _ in range(WARM_UP + rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = loss_of(tokens, targets)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if not losses[-1] < losses[0]:
        raise SystemExit(f"the loss goes from {losses[0]} to {losses[-1]}")
    return 1e3 * statistics.median(seconds[WARM_UP:]), torch.cuda.max_memory_allocated() / 1e9


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--record", action="store_true", help="put the figures into benches/results/gpu.csv")
    parser.add_argument("--out", help="put the figures into this file")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    figures = []
    nets = {"pytorch_plain": model}
    try:
        import torchao  # noqa: F401

        nets["torchao_full"] = quantised
    except ImportError:
        print("torchao is not installed: the plain step alone")
    for name, make in nets.items():
        for compiled in [False, True] if options.compile else [False]:
            name_ = f"{CASE}_{name}" + ("_compiled" if compiled else "")
            ms, gb = measure(make(), options.rounds, compiled)
            print(f"{name_:<40} {ms:9.2f} ms a step, {gb:.3f} GB of tensors at most", flush=True)
            figures.append({"case": name_, "metric": "step_ms", "value": f"{ms:.2f}", "unit": "ms"})
            figures.append({"case": name_, "metric": "peak_gb", "value": f"{gb:.3f}", "unit": "GB"})
            torch.compiler.reset()
    command = "python benches/peers/gpu_step.py" + (" --compile" if options.compile else "")
    card = torch.cuda.get_device_name()
    if options.record:
        results.record("gpu", figures, command, machine=card)
    if options.out:
        results.record("gpu", figures, command, machine=card, file=options.out)


if __name__ == "__main__":
    main()
