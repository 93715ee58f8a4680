"""Messages of the area `chat`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "chat.greeting": (
        "Talking to {label}. {reset} starts over, {quit} ends.",
        "正在与 {label} 对话。{reset} 重新开始，{quit} 结束。",
    ),
    "chat.new": ("A new conversation.", "新的对话。"),
}
