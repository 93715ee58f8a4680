"""Messages of the area `demo`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "demo.question": ("  sentence  {text}", "  句子    {text}"),
    "demo.base": ("  base      {text}", "  调优前  {text}"),
    "demo.tuned": ("  tuned     {text}", "  调优后  {text}"),
    "demo.score": (
        "Held-out sentences answered exactly: base {base:.0f} %, tuned {tuned:.0f} % (of {rows}).",
        "未见过的句子回答完全正确：调优前 {base:.0f} %，调优后 {tuned:.0f} %（共 {rows} 句）。",
    ),
    "demo.merged": (
        "Merged model written to {path} and read back: {agreed} of {asked} answers the same.",
        "合并后的模型已写入 {path} 并重新读取：{asked} 个回答中 {agreed} 个相同。",
    ),
    "demo.receipt": ("The receipt ({path}):", "训练凭证（{path}）："),
    "demo.next": (
        "Done in {seconds:.0f} s. Talk to it: luthier chat {path} --compare base",
        "用时 {seconds:.0f} 秒。与它对话：luthier chat {path} --compare base",
    ),
}
