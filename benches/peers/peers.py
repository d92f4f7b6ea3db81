"""The same fake quantiser, as the peers offer it.

Every function takes weights `w` (rows × columns), `steps` (one per row), the smallest and largest code, and returns
the quantised and dequantised weights as a differentiable tensor. `RISE` holds those that know the mid-rise grid,
whose levels are the codes plus a half; `TREAD` those that know the mid-tread grid, whose levels are the codes.

All of them stop the gradient of a weight by looking at the *rounded* value: half a step more passes at each end than in
the LSQ paper, which looks at w/Δ itself. `detach` and the float64 formula of `golden.py` follow the paper.
"""

import brevitas.core.quant
import torch
import torchao.quantization.quant_primitives as torchao_primitives
from brevitas.core.function_wrapper import Identity
from torchao.prototype.parq.quant.quant_api import quantize_stretched_affine


def detach(w, steps, lo, hi, offset=0.0):
    """LSQ as the paper writes it: the rounding error is a constant of the derivative."""
    v = (w / steps[:, None] - offset).clamp(lo, hi)
    return (v + (v.round() - v).detach() + offset) * steps[:, None]


def torch_learnable(w, steps, lo, hi, grad_factor=1.0):
    """torch's own operator. Multiplies by 1/Δ, so its ties are those of the product."""
    zero_points = torch.zeros_like(steps)
    return torch._fake_quantize_learnable_per_channel_affine(w, steps, zero_points, 0, lo, hi, grad_factor)


def torchao(w, steps, lo, hi):
    """torchao's QAT quantiser. Multiplies by 1/Δ as well."""
    zero_points = torch.zeros(steps.shape, dtype=torch.int32)
    return torchao_primitives._fake_quantize_affine(w, (1, w.shape[1]), steps, zero_points, torch.int32, lo, hi)


def brevitas_int(w, steps, lo, hi, zero_point=0.0):
    """Brevitas' integer quantiser. Divides by Δ. `narrow_range` would leave three levels at 2 bits."""
    bits = torch.tensor(float((hi - lo + 1).bit_length() - 1))
    quantiser = brevitas.core.quant.IntQuant(narrow_range=False, signed=True, input_view_impl=Identity())
    return quantiser(steps[:, None], torch.tensor(zero_point), bits, w)


def brevitas_rise(w, steps, lo, hi):
    """Brevitas with a zero point of −½, which puts its levels on the mid-rise grid."""
    return brevitas_int(w, steps, lo, hi, zero_point=-0.5)


def parq_stretched(w, steps, lo, hi):
    """ParetoQ's stretched quantiser in torchao, forward only: it belongs to an optimiser, not to autograd."""
    top = hi + 0.5
    codes = quantize_stretched_affine(
        w, (1, w.shape[1]), steps, torch.full_like(steps, -0.5), torch.int32, quant_min=-top, quant_max=top
    )
    return (codes.float() + 0.5) * steps[:, None]


TREAD = {"torch": torch_learnable, "torchao": torchao, "brevitas": brevitas_int}
RISE = {"brevitas": brevitas_rise, "parq": parq_stretched}
