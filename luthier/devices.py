"""Devices as their makers describe them, for plans on paper.

What goes in: a name such as `H100-80GB`, or several of them, `8xH100-80GB`. What comes out: memory, and the rates that
bound a step. Figures are from the makers' data sheets: dense matmul in 16-bit floats with float32 sums (for GeForce
cards half of the rate with 16-bit sums), and the bandwidth of the card's own memory. Torch-free.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from luthier.errors import ConfigError, Problem

GIB = 2**30

Dtype = Literal["bfloat16", "float16"]


@dataclass(frozen=True)
class Device:
    """Attributes:
    memory_bytes: of one device. tflops: dense matmul in `dtype`, 10^12 FLOP/s. bandwidth_gbs: 10^9 bytes/s.
    """

    name: str
    memory_bytes: int
    tflops: float
    bandwidth_gbs: float
    dtype: Dtype = "bfloat16"


def _card(name: str, gib: float, tflops: float, bandwidth_gbs: float, dtype: Dtype = "bfloat16") -> Device:
    return Device(name, int(gib * GIB), tflops, bandwidth_gbs, dtype)


DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        _card("T4-16GB", 15, 65, 320, "float16"),
        _card("V100-16GB", 16, 125, 900, "float16"),
        _card("V100-32GB", 32, 125, 900, "float16"),
        _card("RTX3060-12GB", 12, 25.5, 360),
        _card("RTX3090-24GB", 24, 71, 936),
        _card("RTX4060Ti-16GB", 16, 44, 288),
        _card("RTX4090-24GB", 24, 165, 1008),
        _card("RTX5090-32GB", 32, 209, 1792),
        _card("A10-24GB", 22.5, 125, 600),
        _card("L4-24GB", 22.5, 121, 300),
        _card("A6000-48GB", 48, 155, 768),
        _card("L40S-48GB", 45, 362, 864),
        _card("A100-40GB", 39.4, 312, 1555),
        _card("A100-80GB", 79.1, 312, 2039),
        _card("H100-80GB", 79.6, 989, 3350),
        _card("H200-141GB", 140, 989, 4800),
        _card("B200-180GB", 178, 2250, 7700),
        _card("MI300X-192GB", 192, 1307, 5300),
    )
}
"""Memory is what the driver leaves to programs where that is known to be less than the name says (T4, A10, L4, L40S
with error correction on; A100, H100)."""


def parse(text: str) -> tuple[Device, int | None]:
    """A device and how many, None where that is not said: `H100`, `8xH100-80GB`, `2 x A100-40GB`, or as its driver
    calls it, `NVIDIA H100 80GB HBM3`.

    Raises:
        ConfigError: no such device, or several; the nearest names are in the message.
    """
    found = re.fullmatch(r"\s*(?:(\d+)\s*[xX×*]\s*)?(.*?)\s*", text)
    assert found is not None
    count, name = None if found[1] is None else int(found[1]), found[2]
    matching = _named(name)
    if len(matching) == 1 and count != 0:
        return matching[0], count
    wanted = _plain(name)
    near = difflib.get_close_matches(wanted, [_plain(each) for each in DEVICES], n=3, cutoff=0.3)
    names = [each.name for each in matching] or [each for each in DEVICES if _plain(each) in near]
    values = {"near": ", ".join(names), "all": ", ".join(DEVICES)}
    problem = "plan.no_device"
    if count == 0:
        problem = "plan.zero_devices"
    elif matching:
        problem = "plan.which_device"
    elif names:
        problem = "plan.no_device_near"
    raise ConfigError(Problem(problem, field="--device", value=text, values=values))


def _named(name: str) -> list[Device]:
    """The devices that a name may mean. Without its memory it means the card, where there is only one of them."""
    wanted = _plain(name)
    if not wanted:
        return []
    found = []
    for each in DEVICES.values():
        card, whole = _plain(each.name.split("-")[0]), _plain(each.name)
        if wanted in (whole, whole.removesuffix("gb"), card, card.removeprefix("rtx")):
            found.append(each)
    known = None if found else like(name)
    return [known] if known is not None else found


def like(name: str) -> Device | None:
    """The device that a driver's name means (`NVIDIA H100 80GB HBM3`); None where it is not in the table, or where
    several of it are."""
    found = [each for each in DEVICES.values() if _is_in(each.name.split("-")[0], name)]
    # `RTX 4060` is in `RTX 4060 Ti`: the longest name counts.
    longest = max((len(each.name.split("-")[0]) for each in found), default=0)
    found = [each for each in found if len(each.name.split("-")[0]) == longest]
    sizes = re.findall(r"(\d+) ?gb", name.lower())
    if sizes:
        found = [each for each in found if re.search(r"(\d+)GB$", each.name)[1] in sizes]  # type: ignore[index]
    return found[0] if len(found) == 1 else None


def _is_in(card: str, name: str) -> bool:
    """Whether a card's name stands in a longer one as words of its own: `L4` is not in `L40`, and an `RTX 3060 Ti` is
    another card than the one without."""
    parts = r"[\W_]*".join(re.findall(r"[A-Za-z]+|\d+", card))
    return (
        re.search(rf"(?<![a-z0-9]){parts}(?![a-z0-9])(?![\W_]*(?:ti|super|laptop)\b)", name, re.IGNORECASE) is not None
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", re.sub(r"nvidia|geforce|tesla", "", name.lower()))
