"""A tokenizer as llama.cpp has it.

What goes in: `tokenizer.json` of a model folder and the renderer in use. What comes out: metadata of a GGUF file: the
tokens with their kinds, merges or scores, control tokens, chat template. How a byte-level tokenizer cuts text into
words is told by its expressions, never by a hash; one that llama.cpp does not have is refused by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
from gguf import TokenType

from luthier.data.renderer import RowRenderer
from luthier.errors import ModelError, Problem

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS: dict[tuple[tuple[str, ...], bool, bool, bool], str] = {
    ((_LLAMA3,), False, False, True): "llama-bpe",
    ((_LLAMA3,), False, False, False): "dbrx",
    ((_QWEN2,), False, False, False): "qwen2",
    ((_TEKKEN,), False, False, True): "tekken",
    ((_TEKKEN,), False, False, False): "tekken",
    ((), True, False, False): "gpt-2",
    ((), True, True, False): "smollm",
}
"""(expressions, byte level with its own expression, digits one by one, whole words before merges) -> llama.cpp's."""
UNREACHED, ADDED = -1e6, -1000.0
"""Scores of tokens that no merge makes, and of added ones, as llama.cpp's own converter has the latter."""


def add_vocabulary(writer: gguf.GGUFWriter, folder: Path, renderer: RowRenderer, rows: int) -> None:
    """Args:
        folder: holds `tokenizer.json`.
        rows: of the embedding; ids that the tokenizer does not have are unused.

    Raises:
        ModelError: a kind of tokenizer that llama.cpp does not have.
    """
    path = folder / "tokenizer.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        model = state["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(Problem("gguf.no_tokenizer", str(path), values={"reason": str(error)})) from error
    if model.get("type") != "BPE":
        raise ModelError(Problem("gguf.tokenizer", str(path), "model.type", str(model.get("type"))))
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ModelError(Problem("gguf.cut", str(path), f"model.{key}", str(model[key])))
    merges = [tuple(each) if isinstance(each, list) else tuple(each.split(" ")) for each in model["merges"]]
    pieces = bool(model.get("byte_fallback"))
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_tokenizer_pre("default" if pieces else cut_of(state, str(path)))
    tokens, kinds, scores = _tokens(state, merges, pieces, max(rows, renderer.vocab_size))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if pieces:
        writer.add_token_scores(scores)
        writer.add_add_space_prefix(_begins_with_space(state, merges, str(path)))
    else:
        writer.add_token_merges([" ".join(part.replace(" ", "Ġ") for part in each) for each in merges])
    _add_controls(writer, renderer)


def cut_of(state: Mapping[str, Any], where: str) -> str:
    """llama.cpp's name of the way a byte-level tokenizer cuts text into words. NFC, which llama.cpp
    leaves out, changes only texts with letters in parts, which docs/export.md says."""
    for step in _steps(state.get("normalizer"), "normalizers"):
        if step.get("type") != "NFC":
            raise ModelError(Problem("gguf.cut", where, "normalizer", str(step.get("type"))))
    expressions, own, digits = [], False, False
    for step in _steps(state.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            expressions.append(step["pattern"].get("Regex", step["pattern"].get("String")))
        elif step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
            own = bool(step.get("use_regex", True))
        elif step.get("type") == "Digits":
            digits = bool(step.get("individual_digits", False))
        else:
            raise ModelError(Problem("gguf.cut", where, "pre_tokenizer", json.dumps(step, ensure_ascii=False)))
    key = (tuple(expressions), own, digits, bool(state["model"].get("ignore_merges")))
    if key not in CUTS:
        raise ModelError(Problem("gguf.cut", where, "pre_tokenizer", repr(key)))
    return CUTS[key]


def _tokens(
    state: Mapping[str, Any], merges: list[tuple[str, ...]], pieces: bool, count: int
) -> tuple[list[str], list[TokenType], list[float]]:
    tokens = [f"[PAD{index}]" for index in range(count)]
    kinds, scores = [TokenType.UNUSED] * count, [-10000.0] * count
    rank: dict[str, int] = {}
    for index, pair in enumerate(merges):
        rank.setdefault("".join(pair), index)
    for text, index in state["model"]["vocab"].items():
        tokens[index], kinds[index] = text, TokenType.NORMAL
        if pieces and re.fullmatch(r"<0x[0-9A-F]{2}>", text):
            kinds[index], scores[index] = TokenType.BYTE, 0.0
        elif pieces and text == state["model"].get("unk_token"):
            kinds[index], scores[index] = TokenType.UNKNOWN, 0.0
        else:  # the order of merges, as a sentencepiece model has it
            scores[index] = -float(rank[text]) if text in rank else UNREACHED
    for each in state["added_tokens"]:
        index, text = each["id"], each["content"]
        if kinds[index] != TokenType.UNKNOWN:
            kinds[index] = TokenType.CONTROL if each["special"] else TokenType.USER_DEFINED
        if pieces and kinds[index] == TokenType.USER_DEFINED:
            text = text.replace("▁", " ")
        tokens[index], scores[index] = text, ADDED
    return tokens, kinds, scores


def _steps(node: Mapping[str, Any] | None, key: str) -> list[Mapping[str, Any]]:
    return [] if node is None else list(node.get(key, [node]))


def _begins_with_space(state: Mapping[str, Any], merges: Sequence[tuple[str, ...]], where: str) -> bool:
    """Whether text gets a space before it, of a tokenizer whose words begin with one.

    llama.cpp puts it before every stretch of text between control tokens, also one that begins with a space.
    Metaspace's schemes `first` and `always` do not, so that their tokens would be others.

    Raises:
        ModelError: spaces are treated in a way that llama.cpp does not have.
    """
    prepends = False
    for step in _steps(state.get("normalizer"), "normalizers"):
        if step == {"type": "Prepend", "prepend": "▁"}:
            prepends = True
        elif step != {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
            raise ModelError(Problem("gguf.cut", where, "normalizer", json.dumps(step, ensure_ascii=False)))
    for step in _steps(state.get("pre_tokenizer"), "pretokenizers"):
        across = [each for each in map("".join, merges) if "▁" in each[1:]]
        whole = step.get("split") is False or not across
        if step.get("type") != "Metaspace" or step.get("prepend_scheme") != "never" or not whole:
            raise ModelError(Problem("gguf.cut", where, "pre_tokenizer", json.dumps(step, ensure_ascii=False)))
    return prepends


def _add_controls(writer: gguf.GGUFWriter, renderer: RowRenderer) -> None:
    """The token that ends an answer stands beside the end of text, so that llama.cpp stops where training stopped."""
    vocabulary = renderer.vocabulary
    if vocabulary.bos_id is not None:
        writer.add_bos_token_id(vocabulary.bos_id)
    writer.add_add_bos_token(vocabulary.begins_with_bos)
    writer.add_add_eos_token(False)
    if vocabulary.eos_id is not None:
        writer.add_eos_token_id(vocabulary.eos_id)
    if renderer.stop_id is not None:
        writer.add_eot_token_id(renderer.stop_id)
    if renderer.template_source:
        writer.add_chat_template(renderer.template_source)
