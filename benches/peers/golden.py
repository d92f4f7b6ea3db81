"""Golden vectors of the quantisers: forward, straight-through, LSQ and EWGS gradients, from torch in float64.

    python golden.py              # writes qat-kernels/tests/vectors/
    python golden.py --check      # regenerates in memory and compares with the committed files

The stored numbers come from the papers' formulas, differentiated by torch's autograd in float64, one weight at a time;
the gradient of a step is the correctly rounded sum over its weights. Each is then held against every peer that
computes the same thing in float32 (`peers.py`): torch's learnable operator, torchao and Brevitas for the mask on the
rounded value, Brevitas and torchao's ParetoQ quantiser for the mid-rise grid. A peer may differ only where it is known
to, for one of the two reasons in `excused`; how often is in the index, in the column `<peer>_differs`.

Files: `index.csv`, one line per case, and `quantisers.f32`, little-endian f32, the cases one after the other; of a case
with n steps and m weights the arrays of `ARRAYS` one after the other, n or m long. Each step covers m/n weights in a
row.
"""

import argparse
import csv
import io
import math
import operator
import pathlib
import random
import sys

import numpy as np
import torch

import peers

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "qat-kernels" / "tests" / "vectors"
SEED = 20260
LAMBDA = 0.1  # EWGS; the paper's δ, small enough that f32's error in w/Δ at 8 bits stays below the tolerance
MARGIN = 1e-4  # distance of a weight, in steps, from every tie and bound that it does not hit exactly

ARRAYS = ("steps", "w", "g", "w_hat", "clipped", "lsq", "lsq_step", "rounded", "rounded_step", "ewgs")

PER_TENSOR, PER_CHANNEL = 256, 96
TENSOR_STEPS = {2: 0.05 * math.pi / 3, 3: 0.046875, 4: 0.03125, 8: 45 / 65536}
# A power of two; 61·2^-n, whose ties are exact while their product with 1/Δ misses them; a Pi step; a very small or a
# very large one.
CHANNEL_STEPS = {
    2: (0.0625, 61 / 1024, 0.1 * math.pi / 3, 2.0**-50),
    3: (0.125, 61 / 64, 0.3 * math.pi / 4, 2.0**40),
    4: (0.25, 61 / 8192, 0.02 * math.pi / 5, 7.7e9),
    8: (0.001953125, 61 / 16384, 0.001 * math.pi / 2, 3.3e-12),
}
CHANNEL_FACTORS = (1.0, 2.0**-30, 2.0**20, 1.0)  # of the gradients


def f32(x):
    """`x` rounded to float32, as a float."""
    return float(np.float32(x))


class Case:
    def __init__(self, bits, offset, steps, per_step):
        self.bits, self.offset = bits, offset
        self.lo, self.hi = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
        grid = "mid-rise" if offset else "mid-tread"
        self.grid = grid
        self.name = f"{bits}bit_{grid}_{'channel' if len(steps) > 1 else 'tensor'}"
        self.steps = [f32(s) for s in steps]
        self.per_step = per_step
        rng = random.Random(f"{SEED} {self.name}")
        self.w, self.g = [], []
        for i, step in enumerate(self.steps):
            w = self.edges(step)
            while len(w) < per_step:
                x = self.lo - 1.5 + rng.random() * (self.hi - self.lo + 3)
                candidate = f32((x + offset) * step)
                if self.well_defined(candidate, step):
                    w.append(candidate)
            if len(w) != per_step:
                sys.exit(f"{self.name}: {len(w)} edge cases do not fit {per_step} weights")
            w.sort(key=lambda _: rng.random())  # unlike shuffle, promised to be the same in every Python
            self.w += w
            self.g += [g * CHANNEL_FACTORS[i] for g in self.gradients(rng, w, step)]
        self.g = [f32(g) for g in self.g]
        self.clip_val = sorted(abs(w) for w in self.w)[len(self.w) // 2]  # hit exactly by at least one weight
        self.gradient_scale = 1.0 / math.sqrt(per_step * (self.hi + offset))  # LSQ §2.2

    def edges(self, step):
        """Ties around zero and both ends, the ends themselves and their neighbourhood, tiny, huge and zero weights."""
        lo, hi = self.lo, self.hi
        at = {0.0, 0.5, -0.5, 1.0, -1.0}
        at |= {lo + d / 2 for d in range(-4, 5)} | {hi + d / 2 for d in range(-4, 5)}
        exact = [(x + self.offset) * step for x in sorted(at)]
        w = [value for value in exact if f32(value) == value]
        # Around the ends, where the mask on the value and the mask on the rounded value part.
        near = [end + d for end in (lo, hi) for d in (-0.8, -0.45, -0.2, -0.05, 0.05, 0.2, 0.45, 0.8)]
        w += [f32((x + self.offset) * step) for x in near]
        for size in (1e-42, 1.2e-38, 2.0**-40 * step, 1e-3 * step, 1e5 * step, 1e12 * step, 1e25, 3.4e38):
            w += [f32(size), f32(-size)]
        return [value for value in w + [0.0, -0.0] if self.well_defined(value, step)]

    def well_defined(self, w, step):
        """Whether float32 decides as the real numbers do: clear of every tie and bound, or exactly on it."""
        x = w / step - self.offset
        with np.errstate(over="ignore"):
            x32 = float(np.float32(w) / np.float32(step) - np.float32(self.offset))
        tie, bound = abs(x - math.floor(x) - 0.5), min(abs(x - self.lo), abs(x - self.hi))
        return x == x32 or (tie > MARGIN and bound > MARGIN) or abs(x) > 1e4

    def gradients(self, rng, w, step):
        """Of both signs and over four decades, some of them zero, such that no gradient of the step cancels."""
        factors = [], []  # what a weight's g is multiplied with, under either mask
        for value in w:
            x = value / step - self.offset
            code = min(max(round(x), self.lo), self.hi)
            for of_mask, judged in zip(factors, (x, round(x))):
                of_mask.append(code - x if self.lo <= judged <= self.hi else code + self.offset)
        while True:
            g = [0.0 if rng.random() < 0.03 else math.ldexp(1 + rng.random(), int(rng.random() * 13) - 10) for _ in w]
            g = [math.copysign(size, f if rng.random() < 0.8 else -f) for size, f in zip(g, factors[0])]
            if all(self.is_clear(list(map(operator.mul, g, of_mask))) for of_mask in factors):
                return g

    @staticmethod
    def is_clear(terms):
        """Whether a relative tolerance on the sum means something."""
        return abs(math.fsum(terms)) > 0.3 * math.fsum(map(abs, terms))

    @property
    def weight_steps(self):
        return [s for s in self.steps for _ in range(self.per_step)]

    def rows(self):
        """Weights, gradients (rows × columns) and steps as float32 tensors, for the peers."""
        shape = (len(self.steps), self.per_step)
        return torch.tensor(self.w).view(shape), torch.tensor(self.g).view(shape), torch.tensor(self.steps)

    def per_weight(self):
        """The same with every weight in a row of its own: step gradients come out unsummed."""
        return torch.tensor(self.w).view(-1, 1), torch.tensor(self.g).view(-1, 1), torch.tensor(self.weight_steps)


class EwgsRound(torch.autograd.Function):
    """Rounding with EWGS's gradient, g·(1 + δ·sign(g)·(x − x_q)) (Lee et al. 2021), x in units of the step."""

    @staticmethod
    def forward(ctx, x):
        q = x.round()
        ctx.save_for_backward(x - q)
        return q

    @staticmethod
    def backward(ctx, g):
        (error,) = ctx.saved_tensors
        return g * (1 + LAMBDA * torch.sign(g) * error)


def formulas(case):
    """The arrays of the case, from float64 autograd."""
    w = torch.tensor(case.w, dtype=torch.float64)
    g = torch.tensor(case.g, dtype=torch.float64)
    s = torch.tensor(case.weight_steps, dtype=torch.float64)
    lo, hi, offset = case.lo, case.hi, case.offset

    def exact(w, s):
        x = (w / s - offset).clamp(lo, hi)
        return (x + (x.round() - x).detach() + offset) * s

    def rounded(w, s):
        x = w / s - offset
        return ((x + (x.round() - x).detach()).clamp(lo, hi) + offset) * s

    def ewgs(w, s):
        return (EwgsRound.apply((w / s - offset).clamp(lo, hi)) + offset) * s

    def clipped(w, s):
        return w.clamp(-case.clip_val, case.clip_val)

    def backward(f):
        leaves = [w.clone().requires_grad_(), s.clone().requires_grad_()]
        out = f(*leaves)
        # EWGS scales the gradient that arrives at the rounding; dividing by s there and multiplying back leaves the
        # sign alone, so the factor is the same in the weights' units.
        return out.detach(), *torch.autograd.grad(out, leaves, g, allow_unused=True)

    def per_step(terms):
        values, n = terms.tolist(), case.per_step
        return [math.fsum(values[i : i + n]) for i in range(0, len(values), n)]

    w_hat, lsq, lsq_terms = backward(exact)
    w_hat_rounded, mask, mask_terms = backward(rounded)
    if not torch.equal(w_hat, w_hat_rounded):
        sys.exit(f"{case.name}: clamping before and after rounding differ")
    return {
        "steps": case.steps,
        "w": case.w,
        "g": case.g,
        "w_hat": (w_hat + 0.0).tolist(),
        "clipped": backward(clipped)[1].tolist(),
        "lsq": lsq.tolist(),
        "lsq_step": per_step(lsq_terms),
        "rounded": mask.tolist(),
        "rounded_step": per_step(mask_terms),
        "ewgs": backward(ewgs)[1].tolist(),
    }, mask_terms


def excused(peer, w, step):
    """Why a peer may differ at this weight, or None."""
    v = w / step
    if abs(v) >= 2.0**31:
        return "torch's operator rounds into an integer that wraps; Brevitas' derivative becomes 0·∞"
    if peer in ("torch", "torchao") and (v - 0.5).is_integer() and math.frexp(step)[0] != 0.5:
        return "1/Δ is inexact, so the product misses the tie"
    return None


def check_peers(case, arrays, mask_terms):
    """Holds the peers against the formulas. Returns how many weights of each differ, all of them excused."""
    def near(got, want, scale, tolerance):
        return np.abs(np.asarray(got, dtype=np.float64) - want) <= tolerance * np.abs(scale)

    want = {k: np.asarray(v, dtype=np.float64) for k, v in arrays.items()}
    size = np.abs(want["g"]) * np.maximum(np.abs(want["w_hat"]) / np.asarray(case.weight_steps), 1)
    differs = {}
    for name, quantiser in (peers.RISE if case.offset else peers.TREAD).items():
        w, g, steps = case.per_weight()
        leaves = [w.requires_grad_(), steps.requires_grad_()]
        out = quantiser(*leaves, case.lo, case.hi)
        same = near(out.detach().view(-1), want["w_hat"], want["w_hat"], 1e-6)
        if name != "parq":
            grad_w, grad_s = torch.autograd.grad(out, leaves, g)
            same &= near(grad_w.view(-1), want["rounded"], want["rounded"], 1e-6)
            same &= near(grad_s, mask_terms.numpy(), size, 2e-5)
        odd = np.flatnonzero(~same)
        for i in odd:
            if excused(name, case.w[i], case.weight_steps[i]) is None:
                sys.exit(f"{case.name}: {name} differs at w = {case.w[i]!r}, step {case.weight_steps[i]!r}")
        differs[name] = len(odd)
        if name == "torch":
            check_sums(case, mask_terms, odd)
    return differs


def check_sums(case, mask_terms, odd):
    """torch's operator as it is meant to be called: whole rows, with LSQ's gradient scale inside."""
    keep = torch.ones(len(case.w))
    keep[odd] = 0.0  # a weight that differs must not spoil its row's sum
    w, g, steps = case.rows()
    steps.requires_grad_()
    out = peers.torch_learnable(w, steps, case.lo, case.hi, case.gradient_scale)
    (sums,) = torch.autograd.grad(out, steps, g * keep.view(w.shape))
    kept = (mask_terms * keep).view(w.shape).tolist()
    for i, (got, terms) in enumerate(zip(sums.tolist(), kept)):
        want = math.fsum(terms) * case.gradient_scale
        if not abs(got - want) <= 1e-5 * abs(want):
            sys.exit(f"{case.name}: torch sums the gradient of step {i} to {got}, the formula to {want}")


def generate():
    """The two files' contents."""
    rows, data = [], bytearray()
    for bits in (2, 3, 4, 8):
        for offset in (0.0, 0.5):
            for steps, per_step in (([TENSOR_STEPS[bits]], PER_TENSOR), (CHANNEL_STEPS[bits], PER_CHANNEL)):
                case = Case(bits, offset, steps, per_step)
                arrays, mask_terms = formulas(case)
                differs = check_peers(case, arrays, mask_terms)
                for name in ARRAYS:
                    data += np.asarray(arrays[name], dtype=np.float64).astype("<f4").tobytes()
                rows.append({
                    "case": case.name, "bits": bits, "grid": case.grid,
                    "steps": len(case.steps), "weights": len(case.w),
                    "clip_val": case.clip_val, "lambda": f32(LAMBDA), "gradient_scale": f32(case.gradient_scale),
                    **{f"{name}_differs": differs.get(name, "") for name in ("torch", "torchao", "brevitas", "parq")},
                })
    index = io.StringIO()
    writer = csv.DictWriter(index, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return {"index.csv": index.getvalue().encode(), "quantisers.f32": bytes(data)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files instead of writing them")
    check = parser.parse_args().check
    for name, content in generate().items():
        path = VECTORS / name
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            print(f"{path.name}: {len(content)} bytes")
        elif path.read_bytes() != content:
            sys.exit(f"{path} is not what this script makes")
        else:
            print(f"{path.name}: unchanged")


if __name__ == "__main__":
    main()
