"""Messages of the area `judged`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "judged.alarm_chosen.rule": (
        "the better answers have become {fall:.2f} nats per token less likely than they were (limit {limit:g})",
        "较好的回答每个词元的可能性比原先低了 {fall:.2f} 奈特（上限 {limit:g}）",
    ),
    "judged.alarm_chosen.remedy": (
        "The model forgets how to write them. Try a lower optim.lr, or their likelihood beside the pairs "
        "(method.sft_weight=0.1, or method=orpo); for dpo also a higher method.beta.",
        "模型正在忘记如何写出这些回答。请降低 optim.lr，或同时学习其似然（method.sft_weight=0.1，或 method=orpo）；"
        "dpo 还可提高 method.beta。",
    ),
    "judged.alarm_kl.rule": (
        "the model has moved {kl:.2f} nats per token away from what it was (limit {limit:g})",
        "模型已偏离原样，每个词元 {kl:.2f} 奈特（上限 {limit:g}）",
    ),
    "judged.alarm_kl.remedy": (
        "Try a lower optim.lr, fewer optim.epochs or a higher method.beta.",
        "请降低 optim.lr、减少 optim.epochs 或提高 method.beta。",
    ),
    "judged.alarm_no_gain.rule": (
        "of the training rows {train:.0%} are told right, of those held out {held_out:.0%} ({low:.0%} to {high:.0%}), "
        "and their loss rises: {loss:.3f}, which was {least:.3f}",
        "训练行判断正确的有 {train:.0%}，留出行仅 {held_out:.0%}（{low:.0%} 至 {high:.0%}），且其损失在上升："
        "{loss:.3f}，曾为 {least:.3f}",
    ),
    "judged.alarm_no_gain.remedy": (
        "The rows are learnt by heart; the weights with the lowest loss are the ones that ship. Try fewer "
        "optim.epochs, a lower optim.lr, more rows, or method.label_smoothing where the method has it.",
        "这些行是被背下来的；交付的是损失最低时的权重。请减少 optim.epochs、降低 optim.lr、增加数据，或在方法支持时"
        "设置 method.label_smoothing。",
    ),
    "judged.alarm_longer.rule": (
        "of {pairs} pairs held out the longer answer is worth more in {prefers:.0f} %, and is the better one in "
        "{chosen:.0f} %",
        "在 {pairs} 对留出回答中，较长者得分更高的占 {prefers:.0f}%，而较长者确实更好的只占 {chosen:.0f}%",
    ),
    "judged.alarm_longer.remedy": (
        "Length is learnt in place of the judgement. Try method.length_normalised=true (dpo), method=simpo, or pairs "
        "of answers of one length.",
        "模型学到的是长度而不是好坏。请尝试 method.length_normalised=true（dpo）、method=simpo，或使用长度相近的成对"
        "回答。",
    ),
    "judged.alarm_shorter.rule": (
        "of {pairs} pairs held out the longer answer is worth more in only {prefers:.0f} %, and is the better one in "
        "{chosen:.0f} %",
        "在 {pairs} 对留出回答中，较长者得分更高的只占 {prefers:.0f}%，而较长者确实更好的占 {chosen:.0f}%",
    ),
    "judged.alarm_shorter.remedy": (
        "Sums over tokens favour short answers once all become less likely. Try method.length_normalised=true (dpo), "
        "method=simpo, or a lower optim.lr.",
        "当所有回答都变得不太可能时，对词元求和会偏向短回答。请尝试 method.length_normalised=true（dpo）、"
        "method=simpo，或降低 optim.lr。",
    ),
}
