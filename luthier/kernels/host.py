"""What the host knows, on its way to the device.

What goes in: an index array. What comes out: a tensor on the device; the host does not wait for the copy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Through page-locked memory where the device has its own: from any other a copy waits."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)
