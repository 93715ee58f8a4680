"""What clients may ask, in OpenAI's terms, and how they are told that they may not.

What goes in: JSON objects. What comes out: checked requests, or a `Refused` that names the parameter. A parameter that
is not here is refused by its name; one that this server cannot do is taken only with the value that asks for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from luthier.arch.adapter_config import STRONGEST
from luthier.text import say


class Refused(Exception):
    """A request that is not answered. status: of HTTP; parameter: the one at fault; code: a word for programs."""

    def __init__(self, status: int, message: str, parameter: str | None = None, code: str | None = None) -> None:
        self.status, self.message, self.parameter, self.code = status, message, parameter, code
        super().__init__(message)


def refuse(id: str, status: int = 400, parameter: str | None = None, code: str | None = None, **values: Any) -> Refused:
    """A refusal whose words stand in `luthier.text.serve` under this id."""
    return Refused(status, say(id, **values), parameter, code or id.removeprefix("serve."))


KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorBody


def error_of(fault: Refused) -> dict[str, Any]:
    kind = KINDS.get(fault.status, "server_error" if fault.status >= 500 else "invalid_request_error")
    return {"error": {"message": fault.message, "type": kind, "param": fault.parameter, "code": fault.code}}


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _whole(given: Any) -> Any:
    return int(given) if isinstance(given, float) and given.is_integer() else given


AsWhole = BeforeValidator(_whole)
"""An integer as JSON means it: 64.0 is one too."""
Whole = Annotated[int, AsWhole]
Count = Annotated[int, Field(ge=1, le=2**31 - 1), AsWhole]
Prompts = str | list[str] | list[Whole] | list[list[Whole]]


def as_ids(given: Any, texts: Callable[[str], list[int]], parameter: str, most: int) -> list[list[int]]:
    """Texts or ids, one or several, as ids.

    Raises Refused where there are more than `most`.
    """
    several = given if isinstance(given, list) and given and isinstance(given[0], (str, list)) else [given]
    if len(several) > most:
        raise refuse("serve.too_many", parameter=parameter, limit=most)
    return [texts(each) if isinstance(each, str) else each for each in several]


class TextPart(Strict):
    type: Literal["text"]
    text: str


class FunctionCall(Strict):
    name: str = Field(min_length=1)
    arguments: str


class ToolCall(Strict):
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Strict):
    """A turn. What clients send back with an answer that they got (`refusal` and others, all null) is taken as null."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


class Function(Strict):
    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Literal[False] | None = Field(default=None, description="Not supported: only false is taken.")


class Tool(Strict):
    type: Literal["function"]
    function: Function


class ToolName(Strict):
    name: str = Field(min_length=1)


class NamedTool(Strict):
    """The one function that is to be called."""

    type: Literal["function"]
    function: ToolName


class JsonSchema(Strict):
    name: str
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = Field(default=None, description="The schema is always held to.")


class AsText(Strict):
    type: Literal["text"]


class AsJson(Strict):
    type: Literal["json_object"]


class AsSchema(Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


Stop = str | Annotated[list[str], Field(max_length=16)]


class Common(Strict):
    """What chat and completions share. Beyond OpenAI's: top_k, min_p, repetition_penalty."""

    model: str = Field(description="A name from /v1/models: the base or an adapter.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128), AsWhole] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, description="0, greedy, where it is not given.")
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1), AsWhole] | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, gt=0, le=100)
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1), AsWhole] | None = None
    stop: Stop | None = None
    max_tokens: Count | None = None
    user: str | None = Field(default=None, description="A label; it changes nothing and is not kept.")
    frequency_penalty: Literal[0] | None = Field(default=None, description="Not supported: only 0 is taken.")
    presence_penalty: Literal[0] | None = Field(default=None, description="Not supported: only 0 is taken.")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(
        default=None, description="Not supported: only {} is taken."
    )

    @property
    def stops(self) -> tuple[str, ...]:
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(dict.fromkeys(each for each in given if each))


class ChatRequest(Common):
    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20), AsWhole] | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: Literal[True] | None = Field(default=None, description="Not supported: only true is taken.")
    response_format: Annotated[AsText | AsJson | AsSchema, Field(discriminator="type")] | None = None
    store: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None

    @property
    def asked_tokens(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Common):
    prompt: Prompts
    logprobs: Annotated[int, Field(ge=0, le=20), AsWhole] | None = None
    echo: Literal[False] | None = Field(default=None, description="Not supported: only false is taken.")
    best_of: Literal[1] | None = Field(default=None, description="Not supported: only 1 is taken.")
    suffix: None = Field(default=None, description="Not supported.")

    @property
    def asked_tokens(self) -> int:
        return self.max_tokens or 16  # OpenAI's default


class EmbeddingRequest(Strict):
    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    user: str | None = None


class AdapterRequest(Strict):
    path: str = Field(min_length=1, description="A run, or a folder in PEFT's format, on the server's disk.")
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]{1,64}$")


class MixRequest(Strict):
    strengths: dict[str, Annotated[float, Field(ge=0, le=STRONGEST)]] = Field(
        min_length=1, max_length=16, description="Adapters and their strengths: 0 is the base, 1 as trained."
    )
