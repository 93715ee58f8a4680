"""The recipe as frozen, strict sections.

What goes in: plain values from YAML, overrides or Python. What comes out: one immutable `RunConfig`. Only facts that
concern a single field are checked here; what involves two fields is in `rules.py`. Every default has its reason beside
it; every field's help in plain words is in `luthier/text/config.py` under `config.help.<section>.<field>`.
Rank 1; imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

FORMATS = (
    "auto",
    "preference",
    "labelled",
    "answers",
    "prompt_only",
    "messages",
    "sharegpt",
    "firefly",
    "alpaca",
    "prompt",
    "qa",
    "text",
)
"""Built-in data formats; anything else must be the user's own `module:function`."""
TEMPLATES = ("model", "chatml", "alpaca")
"""The base model's own chat template and built-in ones; anything else must be a Jinja file."""
Policy = Literal["keep", "drop_mlp", "drop_layer", "offload", "offload_input"]
"""What a layer keeps for its backward pass. keep: all that a matmul made; drop_mlp: of the MLP its input alone;
drop_layer: the layer's input alone; offload, offload_input: as keep and as drop_layer, in the host's memory where the
device is a GPU."""
ON_DEVICE: dict[Policy, Policy] = {"offload": "keep", "offload_input": "drop_layer"}
"""What layers keep in the host's memory -> the same on the device."""
SEVEN_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Section(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1; a recipe does not."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("switch", "true and false mean nothing here")
        return value


def _kind_of(default: str) -> Callable[[Any], str | None]:
    """Reads the tag of a union member: a bare string equals {kind: string}; a section without a kind has the default
    one, so that `tune: {rank: 32}` means what it says."""

    def kind(value: Any) -> str | None:
        if isinstance(value, str):
            return value
        if isinstance(value, dict):
            kind_given: str | None = value.get("kind", default)
            return kind_given
        return str(value.kind) if isinstance(value, Kinded) else None

    return kind


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise PydanticCustomError("regex", "not a regular expression", {"reason": str(error)}) from error
    return value


def _format_name(value: str) -> str:
    if ":" not in value and value not in FORMATS:
        raise PydanticCustomError("format_name", "no such format")
    return value


def _module_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", value):
        raise PydanticCustomError("module_name", "not a module name")
    return value


def _own_function(value: str) -> str:
    if not re.fullmatch(r"[\w.]+:\w+", value):
        raise PydanticCustomError("own_function", "not a function's name")
    return value


OwnFunction = Annotated[str, AfterValidator(_own_function)]
"""The user's own, `module:function`."""
Regex = Annotated[str, AfterValidator(_regex)]
FormatName = Annotated[str, AfterValidator(_format_name)]
ModuleName = Annotated[str, AfterValidator(_module_name)]


class Kinded(Section):
    """A member of a tagged union; accepts the bare kind as a string."""

    kind: str

    @model_validator(mode="before")
    @classmethod
    def _from_bare_kind(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


# ---------------------------------------------------------------------------------------------------- model


class ModelSection(Section):
    """The base model. A bare string equals {path: string}."""

    path: str = Field(min_length=1)
    """`nano`, a local folder, a hub id `org/name`, or `modelscope:org/name`."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None is the default branch. The commit is pinned in the manifest."""
    init: Literal["pretrained", "random"] = "pretrained"
    """`random` starts from fresh weights of the folder's config.json (pre-training from scratch)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype; auto probes the device (bf16 where it is faster than fp32, fp16 on GPUs below capability 8)."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


# ---------------------------------------------------------------------------------------------------- data


class Source(Section):
    """Data files. A bare string equals {path: string}."""

    path: str = Field(min_length=1)
    """A file, a folder, a pattern with * or **, or `hub:org/name`."""
    format: FormatName = "auto"
    """auto, a name of `FORMATS`, or the user's own `module:function`."""
    weight: float = Field(default=1.0, gt=0)
    """How often each row is seen per epoch: 2 = twice, 0.5 = a fixed half of the rows in each epoch, by turns."""
    columns: dict[str, str] = {}
    """Name that the format reads -> column of the file, dotted within objects; empty: the columns have these names."""
    roles: dict[str, str] = {}
    """Role name in the file -> system, user, assistant, tool or function_call; empty: the usual names."""
    subset: str | None = None
    """Configuration of a data set on the hub; None is its default one."""
    split: str = "train"
    """Split of a data set on the hub."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the hub; None is the default branch."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


RowField = Literal[
    "system", "tools", "reasoning_content", "tool_calls", "user.content", "assistant.content", "tool.content"
]


class DataSection(Section):
    train: tuple[Source, ...] = Field(min_length=1)
    validation: Literal["auto"] | float | tuple[Source, ...] = "auto"
    """Share of the training rows held out (0..0.5), or files of their own; `auto`: 5 % but at most 500 rows, none
    below 100 rows, where a held-out share would be too small to tell anything."""
    format: FormatName = "auto"
    """Format for all sources that do not set their own."""
    max_tokens: int = Field(default=2048, ge=8)
    """Longest example in tokens. 2048 fits most instruction data; memory grows with the tokens actually there, not
    with this bound."""
    bad_rows: Literal["stop", "drop"] = "stop"
    """What to do with rows that cannot be used. stop: a row that is wrong usually means that others are too, and no row
    is left out without the user's word; drop: they go to excluded.jsonl with the reason."""
    too_long: Literal["stop", "drop", "truncate"] = "stop"
    """What to do with longer rows. stop: nothing is cut without the user's word."""
    temperature: float = Field(default=1.0, ge=1)
    """Evens out sources of different size: shares proportional to rows^(1/temperature) (as in multilingual BERT, and
    Conneau et al. 2020, arXiv 1911.02116). 1 keeps them in proportion to their rows."""
    max_repeats: float | None = Field(default=None, gt=0)
    """Most times that a row may come per epoch, whatever weights and temperature ask for: a small source repeated often
    is learnt by heart. None sets no limit."""
    template: str = "model"
    """model (the base model's own chat template), chatml, alpaca, or a Jinja file."""
    system: str | None = None
    """System prompt for conversations that have none; None leaves them without."""
    stop_token: str | None = None
    """Token that ends an answer where the template's own was never trained; None keeps the template's."""
    accept_unread: tuple[RowField, ...] = ()
    """Fields of the rows that the chat template may leave out. Any other that it leaves out is an error: words that the
    model never sees are not brought on purpose."""
    new_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Tokens to add to the tokenizer. With an adapter only their rows of the embedding (and of an untied head) train
    beside it; otherwise the matrices hold them, longer where they have to be."""
    allow_unfilled: bool = False
    """Accept rows with {{placeholders}} without warning."""

    @model_validator(mode="before")
    @classmethod
    def _listify(cls, value: Any) -> Any:
        if isinstance(value, dict):
            if isinstance(value.get("train"), (str, dict, Source)):
                value = {**value, "train": (value["train"],)}
            if is_file(value.get("validation")):
                value = {**value, "validation": (value["validation"],)}
        return value


def is_file(given: Any) -> bool:
    """Whether a single value of `data.validation` stands for a source, and not for `auto` or a share."""
    if isinstance(given, str) and given != "auto":
        try:
            float(given)
        except ValueError:
            return True
    return isinstance(given, (dict, Source))


# ---------------------------------------------------------------------------------------------------- method


class Pretrain(Kinded):
    """Next-token prediction on plain text; long documents are chunked to data.max_tokens."""

    kind: Literal["pretrain"] = "pretrain"
    loss: OwnFunction | None = None
    """None is the negative log-likelihood; or the user's own (`luthier.losses.own`)."""


class Answers(Kinded):
    """A method with its loss on the assistant's words only."""

    train_on: Literal["all", "last"] = "all"
    """Which assistant turns carry loss: every one, or the last of each conversation."""


class Sft(Answers):
    """Supervised fine-tuning."""

    kind: Literal["sft"] = "sft"
    loss: OwnFunction | None = None
    """None is the negative log-likelihood; or the user's own (`luthier.losses.own`)."""


class Distill(Answers):
    """Learn from a teacher what it finds likely at each token of the answers, and not only which token stands there."""

    kind: Literal["distill"] = "distill"
    teacher: str = Field(min_length=1)
    """A run, a local folder, `nano`, or a hub id. Its tokenizer has to be the model's."""
    divergence: Literal["forward", "reverse"] = "forward"
    """forward: KL(teacher || student), which covers all that the teacher finds likely (Hinton et al. 2015, arXiv
    1503.02531); reverse: KL(student || teacher), which leaves out what the student has no room for (Gu et al. 2023,
    arXiv 2306.08543)."""
    temperature: float = Field(default=1.0, gt=0)
    """Of both distributions. 1 compares them as they are; 2 to 4 show more of what the teacher finds less likely. The
    loss is multiplied by its square."""
    top_k: int | None = Field(default=None, ge=1)
    """The teacher's most likely tokens by themselves, all others together. They are computed once and kept on disk;
    None compares all tokens, and runs the teacher at every step. Not studied; 64 hold nearly all probability of a
    trained model."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the likelihood of the data's own words beside the teacher's."""


class Judged(Kinded):
    """A method that learns from answers that somebody judged."""

    alarms: Literal["warn", "stop"] = "warn"
    """What an alarm does. warn: it is written down with advice; stop: the run ends."""


class Reward(Judged):
    """A reward model: a number for each answer, higher for the better one of a pair (Bradley and Terry 1952)."""

    kind: Literal["reward"] = "reward"
    centre: float = Field(default=0.01, ge=0)
    """Weight of the square of what the rewards of a pair add up to: pairs leave open where rewards lie. 0.01 as in
    Eisenstein et al. 2023, arXiv 2312.09244."""
    loss: OwnFunction | None = None
    """None is the paper's; or the user's own (`luthier.losses.own`), beside which `centre` counts as well."""


class Pairs(Judged):
    """A method that learns from pairs of a better and a worse answer how likely each is to be."""

    beta: float = Field(default=0.1, gt=0)
    """How hard a pair pulls. 0.1 as in the DPO, CPO and ORPO papers."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of the pairs that are taken to be the wrong way round; 0 trusts the data."""
    sft_weight: float = Field(default=0.0, ge=0)
    """Weight of the likelihood of the better answers, per token, beside the loss of the pairs."""


class Dpo(Pairs):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290). The reference is the model that training
    begins with."""

    kind: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] | OwnFunction = "sigmoid"
    """sigmoid: the paper's own; hinge: SLiC's; ipo: a target instead of a limit (arXiv 2310.12036), of means over
    tokens; robust: unbiased where a known share of the pairs, `label_smoothing`, is the wrong way round."""
    length_normalised: bool = False
    """Compare means over the tokens of an answer instead of sums, which let long answers count more."""


class Ipo(Dpo):
    """`dpo` with `loss: ipo`."""

    kind: Literal["ipo"] = "ipo"  # type: ignore[assignment]
    loss: Literal["ipo"] | OwnFunction = "ipo"


class Simpo(Pairs):
    """Pairs without a reference, by means over tokens (Meng et al. 2024, arXiv 2405.14734)."""

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(default=2.0, gt=0)
    """2.0, the lowest of the paper's: means over tokens differ by less than sums."""
    gamma: float = Field(default=1.0, ge=0)
    """The lead that the better answer is to have: half of beta, as in the paper."""
    loss: OwnFunction | None = None
    """None is the paper's; or the user's own (`luthier.losses.own`)."""


class Cpo(Pairs):
    """Pairs without a reference, by sums, beside the likelihood of the better answers (Xu et al. 2024, arXiv
    2401.08417)."""

    kind: Literal["cpo"] = "cpo"
    loss: Literal["sigmoid", "hinge"] | OwnFunction = "sigmoid"
    sft_weight: float = Field(default=1.0, ge=0)


class Orpo(Judged):
    """Likelihood of the better answers and the odds of the pair in one loss, without a reference (Hong et al. 2024,
    arXiv 2403.07691)."""

    kind: Literal["orpo"] = "orpo"
    beta: float = Field(default=0.1, gt=0)
    """Weight of the odds beside the likelihood: lambda in the paper."""
    loss: OwnFunction | None = None
    """None is the odds; or the user's own (`luthier.losses.own`), with the same weight."""


class Kto(Judged):
    """Answers marked good or bad, each by itself (Ethayarajh et al. 2024, arXiv 2402.01306)."""

    kind: Literal["kto"] = "kto"
    beta: float = Field(default=0.1, gt=0)
    """How soon an answer counts as good or bad enough. 0.1 as in the paper."""
    wanted_weight: float = Field(default=1.0, gt=0)
    """Weight of answers marked good. Weight times number should be of one size for good and bad (section 4.2)."""
    unwanted_weight: float = Field(default=1.0, gt=0)
    """Weight of answers marked bad."""
    loss: OwnFunction | None = None
    """None is the paper's; or the user's own (`luthier.losses.own`), with the same weights."""


Estimator = Literal["k1", "k2", "k3"]
"""Of a KL divergence, from one sample: see `luthier.losses.policy`."""


def _reward_name(value: str) -> str:
    if value.partition(":")[0] in ("exact", "numeric", "json", "json_fields", "code") and ":" in value:
        raise PydanticCustomError("reward_name", "takes no argument")
    if value not in REWARDS and not re.fullmatch(r"[^:]+:.+", value, re.DOTALL):
        raise PydanticCustomError("reward_name", "no such reward")
    return value


REWARDS = ("exact", "numeric", "json", "json_fields", "code", "json_schema")
"""Built-in rewards that need no argument; others are `regex:PATTERN`, `json_schema:FILE`, `model:RUN` and the user's
own `module:function`."""
RewardName = Annotated[str, AfterValidator(_reward_name)]
JUDGE = "model:"
"""What stands before the run, folder or hub id of a reward model."""


class Online(Kinded):
    """A method that learns from answers of its own: it answers prompts, has the answers judged, and moves towards those
    that are worth more."""

    rewards: tuple[RewardName, ...] = Field(min_length=1)
    """What answers are judged by; the sum counts."""
    reward_weights: tuple[float, ...] = ()
    """Of each reward; empty: 1."""
    reward_seconds: float = Field(default=10.0, gt=0)
    """Longest time for one reward of one answer; one that takes longer costs that answer."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer; memory and time grow with the tokens that are really written."""
    samples: int = Field(default=1, ge=1)
    """Answers to each prompt."""
    updates: int = Field(default=1, ge=1)
    """Optimizer steps with the same answers."""
    clip: float = Field(default=0.2, gt=0, lt=1)
    """How far the probability of a token may move away from what it was when the answer was written before nothing more
    is learnt from it. 0.2: the value of the PPO paper."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the divergence from the model that training began with."""
    kl_estimator: Estimator = "k3"
    """How that divergence is estimated (Schulman 2020)."""
    alarms: Literal["warn", "stop"] = "warn"
    """What an alarm does. warn: it is written down with advice; stop: the run ends."""

    @model_validator(mode="before")
    @classmethod
    def _listify(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("rewards"), str):
            return {**value, "rewards": (value["rewards"],)}
        return value

    @property
    def judges(self) -> tuple[str, ...]:
        """The reward models among the rewards, by what they are asked for."""
        return tuple(name.removeprefix(JUDGE) for name in self.rewards if name.startswith(JUDGE))


class Grpo(Online):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300): several answers to each prompt, each
    measured by the others."""

    kind: Literal["grpo"] = "grpo"
    samples: int = Field(default=8, ge=2)
    """Answers to each prompt."""
    clip_high: float | None = Field(default=None, gt=0)
    """The bound above, where it is another one than `clip`: DAPO's 0.28 lets unlikely tokens become likely sooner."""
    scale: Literal["group", "batch", "none"] = "group"
    """What rewards are divided by once the mean of their group is taken away. none: Dr. GRPO's, which does not favour
    prompts that are nearly solved or nearly hopeless."""
    weighting: Literal["token", "sequence", "constant"] = "token"
    """token: every token counts the same (DAPO); sequence: every answer does, so that a token of a long one counts
    less; constant: tokens count the same, over samples times `max_new_tokens` (Dr. GRPO)."""
    ratio: Literal["token", "sequence"] = "token"
    """What is clipped: the ratio of each token, or of whole answers (GSPO)."""
    resample: int = Field(default=0, ge=0)
    """How often a prompt whose answers are all worth the same, of which nothing can be learnt, is replaced by another
    one in the same step."""


class Ppo(Online):
    """Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) with a value for each token."""

    kind: Literal["ppo"] = "ppo"
    updates: int = Field(default=4, ge=1)
    kl: float = Field(default=0.05, ge=0)
    """Taken off the reward of each token, as in InstructGPT, whose value is 0.02."""
    kl_estimator: Estimator = "k1"
    kl_target: float | None = Field(default=None, gt=0)
    """Divergence of an answer, in nats, that the weight is moved to keep (Ziegler et al. 2019, arXiv 1909.08593); None
    leaves it as it is."""
    kl_horizon: int = Field(default=10_000, ge=1)
    """Answers in which a weight that is 10 % off moves by 10 %."""
    discount: float = Field(default=1.0, gt=0, le=1)
    """Of a reward one token later. 1: an answer is judged as a whole."""
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """Between the error of one step (0) and the rewards to come (1). An answer is rewarded at its end, and the critic
    begins with 0: at the PPO paper's 0.95 the first of 40 tokens would see 0.95^40 = 13 % of the reward, so that tokens
    are judged by where they stand. Measured on nano (LOG.md); 1 as in Hu et al. 2025, arXiv 2503.24290."""
    value_clip: float = Field(default=0.2, gt=0)
    """How far a value may move within one set of answers."""
    value_weight: float = Field(default=0.1, gt=0)
    """Weight of the loss of the values."""
    critic: Literal["shared", "separate"] = "shared"
    """shared: values are one more output of the model that answers; separate: of an adapter of its own."""
    whiten: bool = True
    """Give advantages mean 0 and deviation 1 over a set of answers."""


Method = Annotated[
    Annotated[Pretrain, Tag("pretrain")]
    | Annotated[Distill, Tag("distill")]
    | Annotated[Sft, Tag("sft")]
    | Annotated[Reward, Tag("reward")]
    | Annotated[Ipo, Tag("ipo")]
    | Annotated[Dpo, Tag("dpo")]
    | Annotated[Simpo, Tag("simpo")]
    | Annotated[Orpo, Tag("orpo")]
    | Annotated[Cpo, Tag("cpo")]
    | Annotated[Kto, Tag("kto")]
    | Annotated[Grpo, Tag("grpo")]
    | Annotated[Ppo, Tag("ppo")],
    Discriminator(_kind_of("sft")),
]

# ---------------------------------------------------------------------------------------------------- tune


class Full(Kinded):
    """Every weight is trained."""

    kind: Literal["full"] = "full"


class Freeze(Kinded):
    """Only the top layers, the final norm and an untied head are trained."""

    kind: Literal["freeze"] = "freeze"
    layers: int = Field(default=2, ge=1)
    """How many of the top layers train."""


class Lora(Kinded):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): y = W x + scale * B(A(x))."""

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=16, ge=1)
    """16: the smallest rank at which instruction tuning on all linear layers matches full tuning in "LoRA Without
    Regret" (Thinking Machines 2025) for data of this size."""
    alpha: float | None = Field(default=None, gt=0)
    """None is 2 * rank, the convention of the founding texts and of LLaMA-Factory."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """0: with one to three epochs dropout costs time and rarely helps; 0.05-0.1 for small data."""
    targets: Literal["all-linear"] | Annotated[tuple[ModuleName, ...], Field(min_length=1)] = "all-linear"
    """Module names (`q_proj`), dotted ends (`self_attn.q_proj`) or all-linear. All linear layers, because leaving the
    MLP out costs quality at equal parameters (same source as rank)."""
    rslora: bool = False
    """Scale alpha/sqrt(rank) instead of alpha/rank (Kalajdzievski 2023, arXiv 2312.03732)."""
    rank_pattern: dict[Regex, Annotated[int, Field(ge=1)]] = {}
    """Regular expression on the module name -> rank, where it differs from `rank`."""
    alpha_pattern: dict[Regex, Annotated[float, Field(gt=0)]] = {}
    """Regular expression on the module name -> alpha, where it differs."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """Layer numbers that get adapters; None is all."""
    modules_to_save: tuple[ModuleName, ...] = ()
    """Modules trained in full and saved beside the adapter: embed_tokens, lm_head, norm names."""
    from_: str | None = Field(default=None, alias="from")
    """A run or a PEFT adapter folder to train further; its rank, alpha and targets are taken from there."""

    @model_validator(mode="before")
    @classmethod
    def _listify(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("targets"), str) and value["targets"] != "all-linear":
            return {**value, "targets": tuple(name.strip() for name in value["targets"].split(",") if name.strip())}
        return value

    @property
    def effective_alpha(self) -> float:
        return 2.0 * self.rank if self.alpha is None else self.alpha


class Qlora(Lora):
    """LoRA beside a base that is kept in 4 or 8 bits (Dettmers et al. 2023, arXiv 2305.14314)."""

    kind: Literal["qlora"] = "qlora"  # type: ignore[assignment]
    base: Literal["nf4", "int8"] = "nf4"
    """How the frozen weights of linear layers are kept. nf4: a quarter of bfloat16's bytes, and the quality of 16 bits
    after fine-tuning in the paper; int8: half of them, with about a tenth of nf4's error per weight."""
    double_quant: bool = True
    """Keep nf4's scales in 8 bits as well: 0.37 bit less per weight at no loss that the paper could measure."""


Tune = Annotated[
    Annotated[Full, Tag("full")]
    | Annotated[Freeze, Tag("freeze")]
    | Annotated[Qlora, Tag("qlora")]
    | Annotated[Lora, Tag("lora")],
    Discriminator(_kind_of("lora")),
]

# ---------------------------------------------------------------------------------------------------- optim


class OptimSection(Section):
    kind: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = Field(default=None, gt=0, le=10)
    """Peak learning rate. None: 2e-4 for lora and qlora (about ten times the full rate, "LoRA Without Regret"), 2e-5
    for full and freeze, 3e-4 for weights from scratch. Judged answers move a model further: orpo and cpo take 8e-5 and
    8e-6 (the ORPO paper's), the other methods that learn from them, `reward` apart, 1e-5 and 1e-6 (TRL's for dpo).
    grpo and ppo take 2e-5 and 1e-6: a policy that moves far from what wrote the answers learns nothing from them."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over the data; ignored where `steps` is set."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; takes the place of epochs."""
    batch: int = Field(default=16, ge=1)
    """Examples per update over all devices; how they are split for memory is the engine's business and changes
    nothing."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "polynomial"] = "cosine"
    warmup: float = Field(default=0.03, ge=0)
    """Below 1: share of all steps; from 1: a number of steps."""
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    """Where the schedule ends, as a share of lr."""
    power: float = Field(default=2.0, gt=0)
    """Exponent of the polynomial schedule."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's moment decays; the defaults of the paper."""
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled; 0 because adapters are small; 0.01-0.1 for pre-training. Never on norms and biases."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Of SGD."""
    clip: float = Field(default=1.0, ge=0)
    """Largest gradient norm; 0 switches clipping off."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Most tokens in one micro-batch; None lets the plan choose from free memory. Does not change the result beyond
    float rounding."""
    activations: Literal["auto", "keep", "drop_mlp", "drop_layer", "offload", "offload_input"] = "auto"
    """What layers keep between forward and backward pass; auto lets the plan choose from free memory. Changes no bit of
    the result."""
    weights: Literal["float32", "bfloat16_stochastic", "bfloat16_kahan"] = "float32"
    """How trained matrices are kept between steps. float32: a change of lr 2e-5 is below half a unit of bfloat16 for
    every weight above 0.01, and would be lost."""
    states: Literal["float32", "bfloat16", "8bit"] = "float32"
    """How AdamW keeps the moments of matrices. float32: the others differ from it by what `bench/RESULTS.md` says."""
    paged: bool = False
    """Keep AdamW's moments in the host's memory and bring them to the GPU a page at a time. Off, because an update then
    takes as long as PCIe takes for all of them, twice; on a CPU there is no other memory."""
    in_backward: bool = False
    """Update each weight as soon as its gradient is there, and free the gradient. Off, because then nothing can be
    clipped, summed over micro-batches or taken back."""

    @property
    def in_float32(self) -> bool:
        """Whether weights and states are kept in float32."""
        return self.weights == self.states == "float32"


# ---------------------------------------------------------------------------------------------------- run


class RunSection(Section):
    name: str | None = None
    """Folder below `dir`; None makes one from the model, the method and the data file's name."""
    dir: str = "runs"
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """How many devices train, a process each. auto: every GPU that is there, because what is learnt is the same but for
    float rounding and comes sooner; one on a CPU, whose cores one process uses already."""
    log_every: int = Field(default=1, ge=1)
    """Steps between progress events. Each costs one read-back from the device."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; None: ten per run, at least one per epoch, and never more than 15 minutes apart."""
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept besides the best one."""
    validate_every: int | None = Field(default=None, ge=1)
    """Steps between validations; None: four per run and at the end."""
    samples: int = Field(default=0, ge=0, le=64)
    """Held-out examples that the model answers at each validation, for people to read. 0, because every token of an
    answer is a pass through the model, which only who reads the answers should pay for; at most what
    `luthier.generate` writes at once."""
    sample_tokens: int = Field(default=128, ge=1)
    """Most tokens of such an answer: enough to see how it begins and whether it ends. Chosen, not tuned."""
    report: tuple[Literal["tensorboard", "wandb", "swanlab"], ...] = ()
    """Live trackers besides the run folder; each needs its package."""
    on_change: Literal["stop", "continue"] = "stop"
    """When the recipe or the data differ from the unfinished run of the same name."""

    @model_validator(mode="before")
    @classmethod
    def _listify(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("report"), str):
            return {**value, "report": tuple(part.strip() for part in value["report"].split(",") if part.strip())}
        return value


class RunConfig(Section):
    """A recipe, whole."""

    model: ModelSection
    data: DataSection
    method: Method = Sft()
    tune: Tune = Lora()
    optim: OptimSection = OptimSection()
    run: RunSection = RunSection()

    @property
    def most_devices(self) -> int:
        """Beyond which some would have nothing to do, or could not help: one for each row of a step."""
        alone = self.optim.in_backward or isinstance(self.method, Online)
        return 1 if alone else self.optim.batch

    @property
    def learning_rate(self) -> float:
        """`optim.lr`, or the default of the tuning kind (see the field)."""
        if self.optim.lr is not None:
            return self.optim.lr
        if self.model.init == "random":
            return 3e-4
        if isinstance(self.method, Online):
            return 2e-5 if isinstance(self.tune, Lora) else 1e-6
        full = 2e-5
        if isinstance(self.method, Judged) and not isinstance(self.method, Reward):
            full = 8e-6 if isinstance(self.method, (Orpo, Cpo)) else 1e-6
        return 10 * full if isinstance(self.tune, Lora) else full
