"""nano's corpus and task: reproducible, bilingual, and strangers to each other."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from luthier.nano import corpus, make, start, task

HAN = re.compile(r"[\u4e00-\u9fff]")
CHAT_MARKS = ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")


def _masked(template: str) -> str:
    """A template with every slot, whatever its name, turned into the same sign."""
    return re.sub(r"\{\w+\}", "_", template)


def _fragments(template: str, size: int) -> set[str]:
    """All runs of `size` characters of fixed text around and between slots."""
    text = _masked(template)
    return {text[i : i + size] for i in range(len(text) - size + 1)}


@pytest.mark.parametrize("stage", corpus.STAGES)
def test_documents_depend_on_the_arguments_only(stage: str) -> None:
    first = list(corpus.documents(stage, 3, 40))
    assert first == list(corpus.documents(stage, 3, 40))
    assert first[:10] == list(corpus.documents(stage, 3, 10))
    assert not set(first) & set(corpus.documents(stage, 4, 40))


def test_documents_are_the_same_on_every_machine() -> None:
    """The weights were made from these very documents; a change here needs a new model."""
    text = "\0".join(text for stage in corpus.STAGES for text in corpus.documents(stage, 0, 20))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "51011b883217ae23"


@pytest.mark.parametrize("stage", corpus.STAGES)
def test_corpus_is_english_and_chinese(stage: str) -> None:
    text = "\n".join(corpus.documents(stage, 0, 200))
    assert len(HAN.findall(text)) > 200
    assert len(re.findall(r"[A-Za-z]{3,}", text)) > 1000


def test_corpus_has_conversations() -> None:
    text = "\n".join(corpus.documents("stage3", 0, 50))
    assert all(mark in text for mark in CHAT_MARKS)


def test_corpus_and_task_share_no_template() -> None:
    ours = [_masked(text) for text in corpus.templates()]
    theirs = [_masked(text) for text in (*task.TEMPLATES, *task.TEMPLATES_ZH)]
    assert not set(ours) & set(theirs)
    english = [text for text in ours if not HAN.search(text)]
    for template in task.TEMPLATES:
        shared = {piece for text in english for piece in _fragments(text, 16)} & _fragments(template, 16)
        assert not shared, template


def test_corpus_never_asks_for_the_task() -> None:
    text = "\n".join(corpus.documents("stage3", 0, 2000))
    assert task.INSTRUCTION not in text
    assert "organisation" not in text and "nationality" not in text


def test_examples_depend_on_the_arguments_only() -> None:
    assert task.examples(1, 20) == task.examples(1, 20)
    assert task.examples(1, 20)[:5] == task.examples(1, 5)
    assert task.examples(1, 20) != task.examples(2, 20)


def test_answers_stand_in_the_sentence() -> None:
    for row in task.examples(0, 300):
        answer = json.loads(row["output"])
        assert tuple(answer) == task.FIELDS
        assert all(value in row["input"] for value in answer.values())


@pytest.mark.parametrize("field", ["organisation", "person"])
def test_held_out_names_are_new(field: str) -> None:
    def names(held_out: bool) -> set[str]:
        return {json.loads(row["output"])[field] for row in task.examples(0, 4000, held_out=held_out)}

    assert not names(held_out=True) & names(held_out=False)


def test_score_compares_values_not_layout() -> None:
    assert task.score('{"b": "2",\n "a": "1"}', '{"a": "1", "b": "2"}')
    assert not task.score('{"a": "1"}', '{"a": "1", "b": "2"}')
    assert not task.score("", '{"a": "1"}')
    assert not task.score('{"a": "1"} and more', '{"a": "1"}')


def test_init_folder_reads_back(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    make.write_init(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert len(tokenizer) == config.vocab_size == make.VOCABULARY
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == list(make.SPECIAL_TOKENS)
    assert tokenizer.eos_token_id == config.eos_token_id
    text = "Zoë paid 1,234 € to 陈敏.\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    digits = tokenizer.tokenize("1234")
    assert digits == list("1234")
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    assert tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.apply_chat_template(chat, tokenize=False).endswith("assistant\nYes<|im_end|>\n")


def test_start_looks_back_and_matches() -> None:
    """Untrained, the model already repeats strings of random tokens more often than chance (1 in 1536)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**make.CONFIG)).float()
    model.load_state_dict(start.weights(make.CONFIG, 0), strict=False)  # the tied head has no entry of its own
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(3, make.VOCABULARY, (16, 16), generator=rng).repeat(1, 3)
    with torch.no_grad():
        guesses = model(input_ids=ids).logits.argmax(-1)
    assert (guesses[:, 16:-1] == ids[:, 17:]).float().mean() > 0.02
