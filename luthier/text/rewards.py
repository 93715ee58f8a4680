"""Messages of the area `rewards`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "rewards.unusable.rule": ("this reward cannot be used: {reason}", "无法使用该奖励：{reason}"),
    "rewards.unusable.remedy": (
        "Rewards are exact, numeric, json, code, regex:PATTERN, json_schema:FILE (keywords of JSON Schema that check "
        "types, values, lengths, items and properties), model:RUN or your own module:function.",
        "奖励可为 exact、numeric、json、code、regex:模式、json_schema:文件（支持检查类型、取值、长度、元素和属性的关键"
        "字）、model:运行，或您自己的 模块:函数。",
    ),
}
