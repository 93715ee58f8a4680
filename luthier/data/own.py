"""The user's own format, `module:function`.

What goes in: the name, and rows. What comes out: a function `row -> Example` like those of the shipped formats, and
the file it comes from. Whatever the user's code raises becomes a fault of the row it met.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from luthier.data import detection
from luthier.data.examples import (
    Chat,
    Completion,
    Example,
    Labelled,
    Message,
    Preference,
    Prompt,
    RowFault,
    Text,
    all_messages,
)
from luthier.data.formats import FORMATS
from luthier.data.strict_json import shorten
from luthier.errors import ConfigError, DataError, Problem

_IMPORTED: dict[str, bytes] = {}
"""Module -> its source when it was imported."""


def _content(module: ModuleType) -> bytes:
    file = module.__file__
    return Path(file).read_bytes() if file and Path(file).is_file() else b""


def is_own(format: str) -> bool:
    return ":" in format


def load(format: str) -> Callable[[Any], Example]:
    """The user's function as a format.

    The function takes the row's value and gives an example of `examples.py`, or a row in one of the shipped formats.
    Its module is looked for in the current folder too.

    Raises:
        DataError: no such module or function, or one that cannot be called with a row.
    """
    function = load_function(format)
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError) as error:
        raise _error("data.own_signature", format, reason=str(error)) from error

    def parse(row: Any) -> Example:
        try:
            made = function(row)
        except Exception as error:  # the user's code may raise anything; row and error are named
            raise RowFault("data.own_raised", format, reason=spelt(error), line=line_of(error)) from error
        if isinstance(made, (dict, list)):
            return FORMATS[detection.detect([made])[0]].parse(made)
        wrong = next(_mistyped(made), None)
        if wrong is not None:
            raise RowFault("data.own_result", format, got=wrong)
        example: Example = made
        return example

    return parse


def _mistyped(made: Any) -> Iterator[str]:
    """The types that the user's function should not have put where they are."""
    parts: list[Any]
    match made:
        case Text(text):
            parts = [text]
        case Completion(prompt, completion):
            parts = [prompt, completion]
        case (
            Chat(tuple(), tuple())
            | Prompt(tuple(), tuple())
            | Labelled(tuple(), tuple(), bool(), tuple())
            | Preference(tuple(), tuple(), tuple(), tuple())
        ):
            messages = list(all_messages(made))
            yield from (type(each).__name__ for each in messages if not isinstance(each, Message))
            yield from (f"weight {each.weight!r}" for each in messages if not _is_weight(each.weight))
            parts = [part for each in messages for part in (each.role, each.content)]
        case _:
            yield type(made).__name__
            return
    yield from (type(part).__name__ for part in parts if not isinstance(part, str))


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 <= value < float("inf")


def source_file(format: str) -> Path:
    """The file that the user's function comes from; the manifest keeps its fingerprint.

    Raises:
        DataError: no such module or function.
    """
    load(format)
    return source_of(format)


def load_function(name: str) -> Callable[..., Any]:
    """The user's `module:function`, whatever it is for.

    Raises:
        DataError: no such module or function.
    """
    module_name, _, function_name = name.partition(":")
    module = _module(name, module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [each for each, value in vars(module).items() if inspect.isfunction(value)]
        raise _error("data.own_function", name, module=module_name, functions=", ".join(names) or "-")
    made: Callable[..., Any] = function
    return made


def source_of(name: str) -> Path:
    """The file that a function of `load_function` comes from.

    Raises:
        DataError: no such module or function.
    """
    load_function(name)
    file = sys.modules[name.partition(":")[0]].__file__
    if file is None:
        raise _error("data.own_no_source", name)
    return Path(file)


def source_files(format: str) -> list[Path]:
    """The file that the user's function comes from, and those of other modules in its folder that are loaded: it may
    use them."""
    own = source_file(format)
    loaded = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    beside = {Path(file) for file in loaded if file and Path(file).parent == own.parent}
    return [own, *sorted(beside - {own})]


def _error(id: str, format: str, **values: Any) -> DataError:
    return DataError(Problem(id, field="data.format", value=format, values=values))


def spelt(error: BaseException) -> str:
    """What the user's code raised, in a line."""
    return shorten(f"{type(error).__name__}: {error}", 200)


def line_of(error: BaseException) -> str:
    """`file:line` where the user's code raised."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame is not None else ""


@contextmanager
def named_by(field: str) -> Iterator[None]:
    """Within this block what is wrong with a function is the fault of a field of the recipe that is not a format.

    Raises:
        ConfigError: in place of the DataError.
    """
    try:
        yield
    except DataError as error:
        raise ConfigError(replace(each, field=field) for each in error.problems) from error


@contextmanager
def _current_folder() -> Iterator[None]:
    """The installed command does not look for modules in the current folder by itself."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _module(format: str, name: str) -> ModuleType:
    if not name or not all(part.isidentifier() for part in name.split(".")):
        raise _error("data.own_name", format)
    with _current_folder():
        importlib.invalidate_caches()
        try:
            fresh = name not in sys.modules
            module = importlib.import_module(name)
            # A notebook lives on while its user edits the file: what runs has to be what the manifest names.
            if not fresh and _IMPORTED.get(name) not in (None, _content(module)):
                module = importlib.reload(module)
            _IMPORTED[name] = _content(module)
            return module
        except Exception as error:
            raise _error("data.own_module", format, folder=str(Path.cwd()), reason=spelt(error)) from error
