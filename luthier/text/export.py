"""Messages of the area `export`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "export.templates_differ.rule": (
        "this adapter has another tokenizer, template or stop token than {other}",
        "该适配器的分词器、模板或停止符与 {other} 不同",
    ),
    "export.templates_differ.remedy": (
        "Combine adapters only that were trained with the same template and tokens.",
        "请只组合用相同模板和词元训练的适配器。",
    ),
    "export.whole_model.rule": (
        "only adapters can be combined or given a strength, this is a whole model",
        "只有适配器可以组合或设置强度，这是一个完整模型",
    ),
    "export.whole_model.remedy": ("Name it alone, without a strength.", "请单独给出它，不要设置强度。"),
    "export.bases_differ.rule": (
        "this adapter belongs to another base model than {other}",
        "该适配器与 {other} 属于不同的基础模型",
    ),
    "export.bases_differ.remedy": (
        "Combine only adapters of the same base. For an adapter that was moved, name its base with --base.",
        "请只组合同一基础模型的适配器。若适配器被移动过，请用 --base 指明其基础模型。",
    ),
    "export.no_base.rule": (
        "the adapter does not say which base model it is for",
        "该适配器没有说明它的基础模型",
    ),
    "export.no_base.remedy": ("Name the base with --base.", "请用 --base 指明基础模型。"),
}
