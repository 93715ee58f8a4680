"""The gate between an MLP's projections, act(e) * g, forward and backward.

What goes in: outputs of gate and up. What comes out: their product, or the gradients of both, of which one is written
over the gradient that came and the other over the activation.

Shape legend: N rows, F MLP width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "silu": (F.silu, lambda dy, e: torch.ops.aten.silu_backward.grad_input(dy, e, grad_input=dy)),
    "gelu": (F.gelu, lambda dy, e: torch.ops.aten.gelu_backward.grad_input(dy, e, approximate="none", grad_input=dy)),
    "gelu_tanh": (
        lambda e: F.gelu(e, approximate="tanh"),
        lambda dy, e: torch.ops.aten.gelu_backward.grad_input(dy, e, approximate="tanh", grad_input=dy),
    ),
}
"""Name -> (activation, gradient of its input written over dy)."""


def forward(e_NF: Tensor, g_NF: Tensor, act: str) -> Tensor:
    """act(e) * g."""
    return ACTIVATIONS[act][0](e_NF).mul_(g_NF)


def again(e_NF: Tensor, g_NF: Tensor, act: str, need_product: bool) -> tuple[Tensor | None, Tensor | None]:
    """What the backward pass begins with: act(e) where `backward` reads it, and act(e) * g where it is needed."""
    a_NF = ACTIVATIONS[act][0](e_NF)
    return a_NF, a_NF * g_NF if need_product else None


def backward(dm_NF: Tensor, e_NF: Tensor, g_NF: Tensor, a_NF: Tensor | None, act: str) -> tuple[Tensor, Tensor]:
    """Gradients of e and g, the first written over dm, the second over act(e)."""
    assert a_NF is not None
    dg_NF = a_NF.mul_(dm_NF)
    return ACTIVATIONS[act][1](dm_NF.mul_(g_NF), e_NF), dg_NF
