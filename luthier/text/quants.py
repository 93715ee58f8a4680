"""Messages of the area `quants`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "quants.not_finite.rule": (
        "the weights hold NaN or infinite values, so no file of type {kind} can be made of them",
        "权重中含有 NaN 或无穷大，无法写成 {kind} 类型的文件",
    ),
    "quants.not_finite.remedy": (
        "Training went wrong or the checkpoint is damaged: export an earlier checkpoint, or copy the base model again.",
        "训练出现了异常，或检查点已损坏：请导出更早的检查点，或重新复制基础模型。",
    ),
    "quants.too_large.rule": (
        "the weights hold values too large for the half-precision numbers of type {kind}",
        "权重中的数值过大，超出了 {kind} 类型所用半精度数的范围",
    ),
    "quants.too_large.remedy": (
        "Export as bf16 or f32, which hold any such value.",
        "请导出为 bf16 或 f32，它们可以表示这样的数值。",
    ),
}
