"""Chat templates, rendered in a sandbox.

What goes in: the Jinja source of a chat template, and messages as plain dictionaries. What comes out: the text, and the
stretches that the template itself tags with `{% generation %}`. Templates come from strangers, so they get no access to
Python, no clock, no randomness and a bounded amount of work; the names they find are those of `transformers`.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType
from typing import Any

import jinja2
from jinja2 import meta, nodes, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import sync_do_join
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from luthier.data import traced
from luthier.data.vocabulary import with_marks

MAX_SOURCE_CHARS = 2**20
"""The longest template of a known model has about 20,000 characters."""
MAX_TEXT_CHARS = 2**26
"""Longest text a template may build: some 16 million tokens, more than any context."""
MAX_OPERATIONS = 10_000_000
"""Look-ups, calls and loop steps of one rendering; a 1,000-message conversation takes some 50,000."""

PINNED_DATE = "2024-07-26"
"""What `strftime_now` answers. A real clock would give every day another prompt, and serving another one than training.
This is the day that Llama 3.1's template itself falls back to where there is no clock."""

GENERATED_OPEN, GENERATED_CLOSE = "\ufdd6", "\ufdd7"
"""Unicode noncharacters (never assigned, not for interchange) around tagged text while it is being rendered."""

_TAGGED = re.compile(f"[{GENERATED_OPEN}{GENERATED_CLOSE}]")
_WIDE = re.compile(r"\*|\d{4}")
"""Format strings that ask for thousands of characters."""
_REMOVED = ("random", "center", "pprint", "urlize", "wordwrap")
"""Filters without a use in templates: one is random, the others can be asked for text of any length."""


class TemplateFault(Exception):
    """The template cannot be compiled or refuses these messages; the text says why, in the template's own words."""


@dataclasses.dataclass(frozen=True)
class Rendering:
    """text, and the half-open character ranges of it that stand in `{% generation %}` tags."""

    text: str
    generated: tuple[tuple[int, int], ...]


class Template:
    """One compiled chat template.

    Args:
        source: Jinja source.
        variables: names the template may read besides messages and tools (`bos_token`, `eos_token`...).
        date: ISO date that `strftime_now` formats.

    Raises:
        TemplateFault: the source is no valid Jinja, or too long.
    """

    def __init__(self, source: str, variables: Mapping[str, Any], date: str = PINNED_DATE) -> None:
        if len(source) > MAX_SOURCE_CHARS:
            raise TemplateFault(f"{len(source)} > {MAX_SOURCE_CHARS} characters")
        self.source = source
        self.variables = dict(variables)
        self._environment = _Sandbox(datetime.datetime.fromisoformat(date))
        # One rendering at a time: the budget of operations belongs to the environment.
        self._lock = threading.Lock()
        try:
            code, names = _compiled(source)
            self._compiled = jinja2.Template.from_code(self._environment, code, self._environment.make_globals(None))
        except jinja2.TemplateError as error:
            raise TemplateFault(str(error)) from error
        self.reads_tools = "tools" in names

    def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] = (), *, generation_prompt: bool = False
    ) -> Rendering:
        """The conversation as text, with the beginning of an assistant turn at its end where asked for.

        Raises:
            TemplateFault: the template refuses the messages, fails on them, or exceeds its budget.
        """
        try:
            with self._lock:
                self._environment.start()
                written = self._compiled.render(
                    **self.variables,
                    messages=list(messages),
                    tools=list(tools) or None,
                    documents=None,
                    add_generation_prompt=generation_prompt,
                )
        except (
            jinja2.TemplateError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            raise TemplateFault(str(error) or type(error).__name__) from error
        text = traced.plain(_bounded(written))
        return _untagged(text) if GENERATED_OPEN in text else Rendering(text, ())


def _untagged(text: str) -> Rendering:
    """Take the tags' marks out and note where they stood."""
    pieces, generated, length, opened, at = [], [], 0, 0, 0
    for mark in _TAGGED.finditer(text):
        pieces.append(text[at : mark.start()])
        length += mark.start() - at
        at = mark.end()
        if mark.group() == GENERATED_OPEN:
            opened = length
        else:
            generated.append((opened, length))
    return Rendering("".join([*pieces, text[at:]]), tuple(generated))


def _bounded(value: Any) -> Any:
    """Refuse text beyond `MAX_TEXT_CHARS`, so that doubling a string in a loop ends early."""
    # str's own measure: traced text notices when a template takes it.
    if isinstance(value, str) and str.__len__(value) > MAX_TEXT_CHARS:
        raise SecurityError(f"text of more than {MAX_TEXT_CHARS} characters")
    return value


@pass_eval_context
def _join(context: Any, value: Iterable[Any], between: str = "", attribute: str | int | None = None) -> str:
    """Jinja's own, which joins in C."""
    parts = list(value)
    traced.note(parts, "join")
    return str(sync_do_join(context, parts, between, attribute))


def _concatenated(parts: Sequence[Any]) -> str:
    return str(_bounded(traced.joined([str(part) for part in parts])))


class _BoundConcatenation(NodeTransformer):
    """Jinja's `~` is no operator the sandbox can intercept: each one becomes a call of `_concatenated` instead."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(parts, "concatenated", [], [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: the template's own statement of what the assistant writes."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Callable[[], str]) -> str:
        return traced.joined([GENERATED_OPEN, caller(), GENERATED_CLOSE])


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a budget and the global names that chat templates rely on."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])
    concat = staticmethod(traced.joined)

    def __init__(self, now: datetime.datetime) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
        self._operations = 0
        for name in _REMOVED:
            del self.filters[name]
        del self.globals["lipsum"]
        self.filters["concatenated"] = _concatenated
        self.filters["join"] = _join
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = now.strftime
        self.globals["range"] = self._range
        self.globals["dict"] = _dict
        self.globals["namespace"] = _Namespace

    def start(self) -> None:
        self._operations = 0

    def _spend(self, operations: int = 1) -> None:
        self._operations += operations
        if self._operations > MAX_OPERATIONS:
            raise SecurityError(f"more than {MAX_OPERATIONS} operations")

    def _range(self, *bounds: int) -> range:
        counted = range(*bounds)
        self._spend(len(counted))
        return counted

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        parsed: nodes.Template = _BoundConcatenation().visit(super()._parse(source, name, filename))
        return parsed

    def getitem(self, obj: Any, argument: Any) -> Any:
        self._spend()
        return super().getitem(obj, argument)

    def getattr(self, obj: Any, attribute: str) -> Any:
        self._spend()
        return super().getattr(obj, attribute)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        __self._spend()
        return _bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self._spend()
        if operator == "*":
            _bound_repetition(left, right)
            _bound_repetition(right, left)
        elif operator == "%":
            traced.note(right, "%")
        if operator == "**" or (operator == "%" and isinstance(left, str) and _WIDE.search(left)):
            raise SecurityError(f"operator {operator}")
        return _bounded(super().call_binop(context, operator, left, right))


@functools.lru_cache(maxsize=32)
def _compiled(source: str) -> tuple[CodeType, set[str]]:
    """A template's code, which depends on no date and no variables, and the names it reads. A run asks ten times for
    one or two templates, up to 15 ms each."""
    environment = _Sandbox(datetime.datetime.fromisoformat(PINNED_DATE))
    return environment.compile(source), meta.find_undeclared_variables(environment.parse(source))


class _Namespace(Namespace):
    """Jinja's namespace without underscored names, behind which Python's internals lie."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        for name in dict(*given, **kwargs):
            _refuse_underscore(name)
        Namespace.__init__(self, *given, **kwargs)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"name {name!r} begins with an underscore")


def _dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    return dict(*args, **kwargs)


def _bound_repetition(value: Any, times: Any) -> None:
    if isinstance(value, (str, list, tuple)) and isinstance(times, int) and len(value) * times > MAX_TEXT_CHARS:
        raise SecurityError(f"{times} repetitions")


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter, as in `transformers`."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return with_marks(text) if ensure_ascii else text
