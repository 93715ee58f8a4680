"""Messages of the area `engine`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "engine.interrupted": (
        "Stopped on request; everything is saved in {checkpoint}. The same command goes on from there.",
        "已按要求停止；一切都保存在 {checkpoint}。再次运行同一命令即可继续。",
    ),
}
