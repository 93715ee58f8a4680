"""Messages of the area `rewards`: id -> (English, Chinese)."""

from __future__ import annotations

TEXT: dict[str, tuple[str, str]] = {
    "rewards.unusable.rule": ("this reward cannot be used: {reason}", "无法使用该奖励：{reason}"),
    "rewards.unusable.remedy": (
        "Rewards are exact, numeric, json, json_fields, code, regex:PATTERN, json_schema:FILE (keywords of JSON "
        "Schema that check "
        "types, values, lengths, items and properties), model:RUN or your own module:function.",
        "奖励可为 exact、numeric、json、json_fields、code、regex:模式、json_schema:文件（支持检查类型、取值、长度、"
        "元素和属性的关键字）、model:运行，或您自己的 模块:函数。",
    ),
    "rewards.fooled.rule": (
        "these answers are worth more to the rewards than real ones: {fakes}",
        "以下回答从奖励中得到的分数高于真实回答：{fakes}",
    ),
    "rewards.fooled.remedy": (
        "The model will learn to give them. Let the reward look at what the answer says (the row's reference, its "
        "tests), or add one that such answers fail.",
        "模型会学会给出这样的回答。请让奖励检查回答的内容（参考答案、测试），或增加一个此类回答无法通过的奖励。",
    ),
    "rewards.alarm_kl.rule": (
        "answers have moved {kl:.2f} nats per token away from the model that training began with (limit {limit:g})",
        "回答已偏离初始模型，每个词元 {kl:.2f} 奈特（上限 {limit:g}）",
    ),
    "rewards.alarm_kl.remedy": (
        "Try a higher method.kl, a lower optim.lr or fewer method.updates.",
        "请提高 method.kl、降低 optim.lr 或减少 method.updates。",
    ),
    "rewards.alarm_entropy.rule": (
        "the entropy of a token has fallen from {before:.3f} to {entropy:.3f} nats: answers to one prompt are hardly "
        "different any more",
        "每个词元的熵从 {before:.3f} 降至 {entropy:.3f} 奈特：同一提示的回答几乎不再有差别",
    ),
    "rewards.alarm_entropy.remedy": (
        "Try method.clip_high=0.28, a lower optim.lr, more method.samples, or a method.kl above 0.",
        "请设置 method.clip_high=0.28、降低 optim.lr、增加 method.samples，或使 method.kl 大于 0。",
    ),
    "rewards.alarm_longer.rule": (
        "answers have grown from {before:.0f} to {tokens:.0f} tokens",
        "回答从 {before:.0f} 个词元增长到 {tokens:.0f} 个",
    ),
    "rewards.alarm_longer.remedy": (
        "If the task does not ask for it, rewards or their scaling favour length: try method.scale=none with "
        "method.weighting=constant, or a reward that a long answer fails.",
        "如果任务不需要更长的回答，说明奖励或其缩放偏向长度：请尝试 method.scale=none 和 method.weighting=constant，"
        "或增加一个惩罚过长回答的奖励。",
    ),
    "rewards.alarm_shorter.rule": (
        "answers have shrunk from {before:.0f} to {tokens:.0f} tokens",
        "回答从 {before:.0f} 个词元缩短到 {tokens:.0f} 个",
    ),
    "rewards.alarm_shorter.remedy": (
        "Read some of them: a reward that an empty or cut answer passes is learnt first. Try method.weighting=token "
        "and "
        "a higher method.kl.",
        "请查看几条回答：空的或残缺的回答也能通过的奖励会最先被学会。请尝试 method.weighting=token 和更高的 "
        "method.kl。",
    ),
    "rewards.alarm_cut.rule": (
        "{percent:.0f} % of the answers are cut at method.max_new_tokens, so that their end is never judged",
        "{percent:.0f}% 的回答在 method.max_new_tokens 处被截断，其结尾没有得到评判",
    ),
    "rewards.alarm_cut.remedy": (
        "Raise method.max_new_tokens, or let a reward ask for short answers.",
        "请增大 method.max_new_tokens，或用奖励要求较短的回答。",
    ),
    "rewards.alarm_dead.rule": (
        "in {dead} of {groups} groups all answers are worth the same: there is nothing to learn from them",
        "{groups} 组中有 {dead} 组的所有回答得分相同：无法从中学习",
    ),
    "rewards.alarm_dead.remedy": (
        "Prompts are too easy or too hard: mix in others, give a reward that grades partial success, raise "
        "method.samples, or set method.resample.",
        "提示过易或过难：请混入其他提示，使用能体现部分成功的奖励，增加 method.samples，或设置 method.resample。",
    ),
    "rewards.alarm_failed.rule": (
        "the rewards of {failed} of {answers} answers failed, most often: {reason}",
        "{answers} 个回答中有 {failed} 个的奖励计算失败，最常见原因：{reason}",
    ),
    "rewards.alarm_failed.remedy": (
        "Those answers teach nothing. Mend the reward, or raise method.reward_seconds.",
        "这些回答没有任何作用。请修正奖励函数，或增大 method.reward_seconds。",
    ),
    "rewards.alarm_no_gain.rule": (
        "rewards have risen by {rise:.3f} on the prompts that are learnt from, but by {gain:.3f} ({low:.3f} to "
        "{high:.3f}) on those held out",
        "训练提示上的奖励上升了 {rise:.3f}，而留出提示上仅变化 {gain:.3f}（{low:.3f} 至 {high:.3f}）",
    ),
    "rewards.alarm_no_gain.remedy": (
        "The model learns these prompts, or a weakness of the rewards, and not the task: use more prompts and fewer "
        "epochs, a higher method.kl, and read what it answers.",
        "模型学会的是这些提示或奖励的漏洞，而不是任务本身：请使用更多提示、更少轮数、更高的 method.kl，并查看其回答。",
    ),
}
