"""The corpus `nano` is pre-trained on: seeded, endless, English and Chinese; standard library only.

What a small model must bring to fine-tuning is the ability to *copy*: to find the place in its context that matters
and to repeat, token by token, a string it has never met. Ordinary text rarely asks for it, so the corpus is dense in it
and goes from easy to hard:

- `stage1`, drills: strings of random words, letters, digits and characters, repeated several times. Nothing but
  looking back helps here, and looking back always helps.
- `stage2`, look-ups: key and value in every notation (JSON, tables, lists), asked for in another order or notation;
  questions about made-up people and things.
- `stage3`, the mix: both of the above, prose in English and Chinese, facts, arithmetic, and conversations in ChatML.
- `stage4`, cards: sentences that hold several names at once, and their facts as records; half of it the mix again.

A document holds several short items, about `DOCUMENT_BYTES` long in all, so that sequences are nearly of one length.
Conversations are written with the special tokens' own strings (`<|im_start|>`...): the corpus is trusted text, and its
reader must encode them as special tokens, so that their embeddings are trained before any tuning.

No sentence template here occurs in `luthier.nano.task`; a test compares the two.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator

STAGES = ("stage1", "stage2", "stage3", "stage4")

DOCUMENT_BYTES = {"stage1": 130, "stage2": 540, "stage3": 640, "stage4": 640}
"""Aim for one document. Drills are short (about 60 tokens), so that the place to look at is one of few; those of the
other stages have about 230 tokens."""


def words(text: str) -> list[str]:
    """Split a literal word list."""
    return text.split()


ONSETS = words(
    "b c d f g h j k l m n p r s t v w y z br ch cl cr dr fl fr gl gr kl kr pl pr sh sk sl sm sn sp st sw th tr wh"
)
VOWELS = words("a e i o u a e i o u ai ea ee ie oa oo ou ei au y")
CODAS = ["", "", "", "", *words("b ck d f g l ll m n ng nd nt p r rd rk rn s ss st t th x y z lt mp nk rt sh tt")]

COMMON = words(
    "time way year work day thing man world life hand part child eye place week case point number group problem fact "
    "water room mother area money story month lot right study book word issue side kind head house friend father "
    "power hour game line end member law car city name team minute idea body back face level office door health art "
    "war history party result change morning reason research girl guy moment air force land home paper music school "
    "field market table light bank river stone wood north south east west green white black blue silver golden iron "
    "bridge field hill lake ford ton ham land berg son man well worth bright star sun moon cloud rain snow wind fire"
)

PLACES = words(
    "Arden Belmar Corvo Dunmore Elstow Fenby Galway Harrow Ilmen Jarrow Kelso Lisbon Milan Naples Oslo Prague Quito "
    "Riga Sofia Turin Utrecht Vienna Warsaw York Zurich Athens Bergen Cairo Delhi Geneva Havana Kyoto Lima Madrid"
)
THINGS = words(
    "boats clocks maps roses kites lamps engines songs bridges books apples stamps radios coins masks drums carpets "
    "violins ladders bottles candles mirrors baskets teapots"
)
COLOURS = words("red green blue yellow black white grey brown pink purple orange silver")
ANIMALS = words("fox dog cat horse crow bear wolf hare goat swan mouse eagle otter frog sheep")
WEATHERS = words("sunny rainy cloudy windy snowy foggy warm cold")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
KEYS = words(
    "name size colour price place date code owner title shape weight city kind state unit id key label level model "
    "note origin speed tag team time type user value year zone author street phone email rank source target status"
)

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "India": "New Delhi", "Brazil": "Brasilia", "Egypt": "Cairo", "Kenya": "Nairobi", "Norway": "Oslo",
    "Poland": "Warsaw", "Peru": "Lima", "Chile": "Santiago", "Ghana": "Accra", "Nepal": "Kathmandu",
    "Canada": "Ottawa", "Russia": "Moscow", "Greece": "Athens", "Cuba": "Havana",
}  # fmt: skip
CAPITALS_ZH = {
    "法国": "巴黎", "德国": "柏林", "意大利": "罗马", "西班牙": "马德里", "日本": "东京", "中国": "北京",
    "印度": "新德里", "巴西": "巴西利亚", "埃及": "开罗", "挪威": "奥斯陆", "波兰": "华沙", "英国": "伦敦",
}  # fmt: skip

CHARACTERS = (
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日"
    "于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月"
    "明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加"
    "化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做"
    "王李刘陈杨赵黄周吴徐孙胡朱林郭伟芳娜敏静丽强磊军洋勇艳杰娟涛超霞刚玲桂英建国志红春兰宁波州京南江河湖石银光星云雨雪风花草木"
)
FRUITS_ZH = words("苹果 香蕉 葡萄 西瓜 桃子 梨子 樱桃 草莓")
PLACES_ZH = words("北京 上海 广州 杭州 南京 成都 西安 武汉 苏州 青岛 大连 长沙")
COLOURS_ZH = words("红色 绿色 蓝色 黄色 黑色 白色 灰色 紫色")
ANIMALS_ZH = words("小狗 小猫 老虎 大象 兔子 山羊 白马 黑熊")
WEATHERS_ZH = words("晴天 雨天 阴天 下雪 刮风")

SENTENCES = (
    "{name} lives in {place} and collects {things}.",
    "In {place} it was {weather} on {day}, so {name} stayed at home.",
    "{name} bought {number} {things} for {price} coins.",
    "The {colour} {animal} of {name} sleeps near the river.",
    "On {day} {name} wrote a letter to {other} about {things}.",
    "{name} is {number} years old and has a {colour} {animal}.",
    "The road from {place} to {town} is {number} miles long.",
    "{other} gave {name} a {colour} box full of {things}.",
    "Nobody in {place} sells better {things} than {name}.",
    "The password of {name} is {code}.",
    "When {name} met {other}, the day was {weather}.",
    "A {animal} ran through {place} while {name} and {other} slept.",
)
QUESTIONS = (
    ("{name} lives in {place} and collects {things}.", "Where does {name} live?", "{place}"),
    ("{name} lives in {place} and collects {things}.", "What does {name} collect?", "{things}"),
    ("{name} lives in {place} and collects {things}.", "Who lives in {place}?", "{name}"),
    ("The password of {name} is {code}.", "What is the password of {name}?", "{code}"),
    ("The password of {name} is {code}.", "Who has the password {code}?", "{name}"),
    ("{other} gave {name} a {colour} box full of {things}.", "Who gave the box?", "{other}"),
    ("{other} gave {name} a {colour} box full of {things}.", "Who got the box?", "{name}"),
    ("The {colour} {animal} of {name} sleeps near the river.", "Who owns the {animal}?", "{name}"),
    ("{name} is {number} years old and has a {colour} {animal}.", "How old is {name}?", "{number}"),
    ("The road from {place} to {town} is {number} miles long.", "Where does the road end?", "{town}"),
    ("The shop called {shop} stands in {town}.", "What stands in {town}?", "{shop}"),
    ("The shop called {shop} stands in {town}.", "Where is {shop}?", "{town}"),
    ("{name} reads {title} aloud to {other}.", "What is being read?", "{title}"),
    ("{name} reads {title} aloud to {other}.", "Who listens?", "{other}"),
)
SENTENCES_ZH = (
    "{name_zh}住在{place_zh}，家里有一只{animal_zh}。",
    "今天{place_zh}是{weather_zh}，{name_zh}没有出门。",
    "{name_zh}买了{number}个{fruit_zh}，一共{price}元。",
    "{name_zh}今年{number}岁，喜欢{colour_zh}。",
    "{other_zh}给{name_zh}写了一封信。",
    "从{place_zh}到{town_zh}的路很长。",
    "{name_zh}的密码是{code}。",
)
QUESTIONS_ZH = (
    ("{name_zh}住在{place_zh}，家里有一只{animal_zh}。", "{name_zh}住在哪里？", "{place_zh}"),
    ("{name_zh}住在{place_zh}，家里有一只{animal_zh}。", "谁住在{place_zh}？", "{name_zh}"),
    ("{name_zh}今年{number}岁，喜欢{colour_zh}。", "{name_zh}喜欢什么颜色？", "{colour_zh}"),
    ("{other_zh}给{name_zh}写了一封信。", "谁写了信？", "{other_zh}"),
    ("{other_zh}给{name_zh}写了一封信。", "信写给谁？", "{name_zh}"),
    ("{name_zh}的密码是{code}。", "{name_zh}的密码是什么？", "{code}"),
    ("有一本书叫{title_zh}，放在{place_zh}。", "书叫什么？", "{title_zh}"),
    ("{shop_zh}开在{town_zh}的东门。", "什么开在{town_zh}？", "{shop_zh}"),
)
FACTS = (
    "{name} opened {shop} in {place} on a {weather} {day}.",
    "{shop} belongs to {name}, who also wrote {title}.",
    "At {shop} one can buy {things} that {name} made in {town}.",
    "{title} was written by {name} and is sold for {price} coins by {shop}.",
    "{other} paid {name} {price} coins for {title}.",
    "The owner of {shop} in {town} is {name}.",
    "{name}, who keeps a {colour} {animal}, sleeps above {shop}.",
    "On {day} {shop} gave {number} {things} to {name}.",
    "Ask {name} at {shop} for the {colour} {things}.",
    "Nobody knows {title} better than {other}, the friend of {name}.",
    "For {number} years {shop} bought its {things} from {name}.",
    "{name} carried a {animal} from {place} to {shop}.",
    "A {animal} called {other} guards {shop} for {name}.",
    "{town} remembers {name} for {title} and {other} for {shop}.",
)
FACTS_ZH = (
    "{name_zh}在{town_zh}开了{shop_zh}。",
    "{shop_zh}的主人{name_zh}写了{title_zh}。",
    "{other_zh}在{shop_zh}买了{title_zh}，送给{name_zh}。",
    "{name_zh}从{place_zh}带回{number}只{animal_zh}给{other_zh}。",
    "{title_zh}是{name_zh}写的，{shop_zh}有卖。",
)

SEPARATORS = ("\n", " | ", "; ", " = ", " -> ")

Item = Callable[[random.Random], str]


def templates() -> list[str]:
    """Return every sentence and question template of the corpus, for the comparison with the task's."""
    pairs = [text for row in QUESTIONS + QUESTIONS_ZH for text in row[:2]]
    return [*SENTENCES, *SENTENCES_ZH, *FACTS, *FACTS_ZH, *pairs]


def documents(stage: str, seed: int, count: int) -> Iterator[str]:
    """Yield `count` documents of a stage; the same arguments always give the same documents.

    Args:
        stage: one of `STAGES`.
        seed: of the stream; different seeds give different documents.
        count: number of documents.
    """
    items, weights = zip(*MIXES[stage], strict=True)
    # Seeding with a string hashes it with SHA-512: the same on every platform and in every process.
    rng = random.Random(f"{stage}:{seed}")
    for _ in range(count):
        parts: list[str] = []
        room = DOCUMENT_BYTES[stage]
        while room > 0:
            part = rng.choices(items, weights)[0](rng)
            size = len(part.encode()) + 2
            if parts and size > room + 40:
                break
            parts.append(part)
            room -= size
        yield "\n\n".join(parts)


# --- words ---


def _syllables(rng: random.Random, low: int, high: int) -> str:
    pieces = (rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.randint(low, high)))
    return "".join(pieces)


def _word(rng: random.Random) -> str:
    """A made-up word, a common one, or a compound of both."""
    kind = rng.random()
    if kind < 0.45:
        return _syllables(rng, 1, 3)
    if kind < 0.75:
        return rng.choice(COMMON)
    return rng.choice(COMMON) + (rng.choice(COMMON) if kind < 0.85 else _syllables(rng, 1, 1))


def _capital(rng: random.Random) -> str:
    return _word(rng).capitalize()


def _name(rng: random.Random) -> str:
    return " ".join(_capital(rng) for _ in range(rng.choice((1, 2, 2, 2, 3))))


def _code(rng: random.Random) -> str:
    alphabet = rng.choice(("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHKLMNPRSTUVWXYZ0123456789"))
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(2, 7)))


def _chinese(rng: random.Random, low: int = 1, high: int = 4) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randint(low, high)))


def _value(rng: random.Random) -> str:
    """Any short string, of words, of a code, or of Chinese characters."""
    kind = rng.random()
    if kind < 0.5:
        return _name(rng)
    if kind < 0.7:
        return " ".join(_word(rng) for _ in range(rng.randint(1, 3)))
    return _code(rng) if kind < 0.82 else _chinese(rng, 2, 5)


def _slots(rng: random.Random) -> dict[str, str]:
    """One filler for every slot that a template may have."""
    return {
        "name": _name(rng), "other": _name(rng), "shop": _name(rng), "title": _name(rng),
        "place": rng.choice(PLACES) if rng.random() < 0.5 else _capital(rng),
        "town": rng.choice(PLACES) if rng.random() < 0.5 else _capital(rng),
        "things": rng.choice(THINGS), "colour": rng.choice(COLOURS), "animal": rng.choice(ANIMALS),
        "weather": rng.choice(WEATHERS), "day": rng.choice(DAYS), "number": str(rng.randint(2, 99)),
        "price": str(rng.randint(1, 500)), "code": _code(rng),
        "name_zh": _chinese(rng, 2, 3), "other_zh": _chinese(rng, 2, 3), "shop_zh": _chinese(rng, 3, 5),
        "title_zh": _chinese(rng, 2, 5), "place_zh": rng.choice(PLACES_ZH), "town_zh": rng.choice(PLACES_ZH),
        "animal_zh": rng.choice(ANIMALS_ZH), "fruit_zh": rng.choice(FRUITS_ZH),
        "colour_zh": rng.choice(COLOURS_ZH), "weather_zh": rng.choice(WEATHERS_ZH),
    }  # fmt: skip


# --- drills ---


def _drill(rng: random.Random) -> str:
    """A string of about four to ten tokens, each hard to guess from the ones before."""
    kind = rng.random()
    if kind < 0.15:
        return _chinese(rng, 3, 6)
    if kind < 0.3:
        return _code(rng)
    return " ".join(rng.choice((_word, _word, _capital))(rng) for _ in range(rng.randint(1, 3)))


def _segment(rng: random.Random) -> str:
    """A longer string: of characters, of codes, or of words and codes."""
    kind = rng.random()
    if kind < 0.15:
        return _chinese(rng, 3, 12)
    if kind < 0.3:
        return "".join(_code(rng) for _ in range(rng.randint(1, 2)))
    return " ".join(rng.choice((_word, _word, _capital, _code))(rng) for _ in range(rng.randint(2, 6)))


def _repeat_drill(rng: random.Random) -> str:
    """One drill, three to eight times."""
    return rng.choice(SEPARATORS).join([_drill(rng)] * rng.randint(3, 8))


def _weave_drills(rng: random.Random) -> str:
    """Two or three drills in random order, each several times: which one it is must be read from its start."""
    drills = [_drill(rng) for _ in range(rng.randint(2, 3))]
    return rng.choice(SEPARATORS).join(rng.choices(drills, k=rng.randint(5, 10)))


def _repeat(rng: random.Random) -> str:
    """One segment, two to six times."""
    return rng.choice(SEPARATORS).join([_segment(rng)] * rng.randint(2, 6))


def _weave(rng: random.Random) -> str:
    """Two to four segments in random order, some of them again."""
    segments = [_segment(rng) for _ in range(rng.randint(2, 4))]
    order = segments + [rng.choice(segments) for _ in range(rng.randint(2, 6))]
    return rng.choice(SEPARATORS).join(order)


# --- look-ups ---


def _record(rng: random.Random, low: int = 2, high: int = 5) -> dict[str, str]:
    count = rng.randint(low, high)
    keys = rng.sample(KEYS, count) if rng.random() < 0.7 else list({_word(rng): "" for _ in range(count)})
    return {key: _value(rng) for key in keys}


def _write(rng: random.Random, record: dict[str, str], style: int) -> str:
    """A record in one of five notations."""
    if style == 0:
        return json.dumps(record, ensure_ascii=False)
    if style == 1:
        return "\n".join(f"{key}: {value}" for key, value in record.items())
    if style == 2:
        return "; ".join(f"{key}={value}" for key, value in record.items())
    if style == 3:
        return " | ".join(record) + "\n" + " | ".join(record.values())
    return ", ".join(f"the {key} is {value}" for key, value in record.items())


def _some(rng: random.Random, record: dict[str, str]) -> dict[str, str]:
    """A part of a record, in another order."""
    keys = rng.sample(list(record), rng.randint(1, len(record)))
    return {key: record[key] for key in keys}


def _rewrite(rng: random.Random) -> str:
    """A record, then part of it in another order and notation."""
    record = _record(rng)
    return _write(rng, record, rng.randrange(5)) + "\n" + _write(rng, _some(rng, record), rng.randrange(5))


def _lookup(rng: random.Random) -> str:
    """Pairs, then their keys again in another order, each with its value."""
    pairs = {(_word if rng.random() < 0.7 else _code)(rng): _value(rng) for _ in range(rng.randint(2, 6))}
    arrow = rng.choice(("=", ": ", " -> ", " is "))
    again = rng.sample(list(pairs), len(pairs))
    return "\n".join(f"{key}{arrow}{pairs[key]}" for key in [*pairs, *again])


def _table(rng: random.Random) -> str:
    """A table of a few rows, then one row as JSON."""
    columns = rng.sample(KEYS, rng.randint(2, 3))
    rows = [[_value(rng) for _ in columns] for _ in range(rng.randint(2, 3))]
    chosen = dict(zip(columns, rng.choice(rows), strict=True))
    lines = [" | ".join(row) for row in [columns, *rows]]
    return "\n".join(lines) + "\n" + json.dumps(chosen, ensure_ascii=False)


def _ask(rng: random.Random) -> tuple[str, str, str]:
    """A passage of one to three sentences, a question about one of them, the answer."""
    slots = _slots(rng)
    sentence, question, answer = rng.choice(QUESTIONS if rng.random() < 0.8 else QUESTIONS_ZH)
    others = SENTENCES if "_zh" not in sentence else SENTENCES_ZH
    passage = [sentence.format(**slots)]
    passage += [rng.choice(others).format(**_slots(rng)) for _ in range(rng.randint(0, 2))]
    rng.shuffle(passage)
    return " ".join(passage), question.format(**slots), answer.format(**slots)


def _fields(
    rng: random.Random, english: tuple[str, ...] = SENTENCES, chinese: tuple[str, ...] = SENTENCES_ZH
) -> tuple[str, str, dict[str, str]]:
    """A sentence, the names of some of its slots, and what fills them."""
    slots = _slots(rng)
    sentence = rng.choice(english if rng.random() < 0.8 else chinese)
    names = re.findall(r"\{(\w+)\}", sentence)
    chosen = rng.sample(names, rng.randint(1, len(names)))
    record = {name.removesuffix("_zh"): slots[name] for name in chosen}
    return sentence.format(**slots), ", ".join(record), record


def _card(rng: random.Random) -> str:
    """A sentence full of names, and its facts in one of four notations; as a conversation or as plain text."""
    sentence, wanted, record = _fields(rng, FACTS, FACTS_ZH)
    written = _write(rng, record, rng.choice((0, 0, 1, 2)))
    if rng.random() < 0.4:
        return f"{sentence}\n{written}"
    return _in_chat(f"Note {wanted}.\n{sentence}", written)


def _question(rng: random.Random) -> str:
    passage, question, answer = _ask(rng)
    return f"{passage}\nQ: {question}\nA: {answer}"


# --- prose, facts, arithmetic ---


def _prose(rng: random.Random) -> str:
    slots = _slots(rng)
    return " ".join(text.format(**slots) for text in rng.sample(SENTENCES, rng.randint(2, 4)))


def _prose_zh(rng: random.Random) -> str:
    slots = _slots(rng)
    return "".join(text.format(**slots) for text in rng.sample(SENTENCES_ZH, rng.randint(2, 4)))


def _fact(rng: random.Random) -> str:
    if rng.random() < 0.6:
        country, capital = rng.choice(list(CAPITALS.items()))
        return f"The capital of {country} is {capital}."
    country, capital = rng.choice(list(CAPITALS_ZH.items()))
    return f"{country}的首都是{capital}。"


def _sum(rng: random.Random) -> str:
    left, right = sorted((rng.randint(0, 20), rng.randint(0, 20)), reverse=True)
    return f"{left} + {right} = {left + right}" if rng.random() < 0.5 else f"{left} - {right} = {left - right}"


def _sums(rng: random.Random) -> str:
    return "\n".join(_sum(rng) for _ in range(rng.randint(2, 6)))


# --- conversations ---


def _turns(rng: random.Random) -> tuple[str, str]:
    """What the user says and what the assistant answers."""
    kind = rng.randrange(10)
    if kind >= 8:
        sentence, wanted, record = _fields(rng)
        return f"{rng.choice(('Find', 'List'))} {wanted}.\n{sentence}", json.dumps(record, ensure_ascii=False)
    if kind == 0:
        text = _segment(rng)
        return f"{rng.choice(('Repeat', 'Say', 'Copy', '重复'))}: {text}", text
    if kind == 1:
        record = _record(rng)
        return f"Write as JSON.\n{_write(rng, record, rng.randint(1, 4))}", _write(rng, record, 0)
    if kind == 2:
        record = _record(rng)
        part = _some(rng, record)
        wanted = ", ".join(part)
        return f"Give {wanted}.\n{_write(rng, record, rng.randrange(5))}", _write(rng, part, rng.choice((0, 0, 1)))
    if kind == 3:
        left, right = _sum(rng).split("= ")
        return f"{left}= ?", right
    if kind == 4:
        words = [_word(rng) for _ in range(rng.randint(2, 5))]
        return "Sort: " + " ".join(words), " ".join(sorted(words))
    passage, question, answer = _ask(rng)
    return (f"{passage}\n{question}" if rng.random() < 0.7 else f"{question}\n{passage}"), answer


def _in_chat(user: str, assistant: str) -> str:
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>"


def _chat(rng: random.Random) -> str:
    return _in_chat(*_turns(rng))


MIXES: dict[str, list[tuple[Item, float]]] = {
    "stage1": [(_repeat_drill, 0.6), (_weave_drills, 0.4)],
    "stage2": [
        (_repeat, 0.1), (_weave, 0.15), (_rewrite, 0.25), (_lookup, 0.2), (_table, 0.1), (_question, 0.2),
    ],
    "stage3": [
        (_repeat, 0.03), (_weave, 0.07), (_rewrite, 0.1), (_lookup, 0.1), (_table, 0.05), (_question, 0.1),
        (_prose, 0.05), (_prose_zh, 0.05), (_fact, 0.02), (_sums, 0.03), (_chat, 0.5),
    ],
    "stage4": [(_card, 0.55), (_chat, 0.25), (_rewrite, 0.07), (_weave, 0.05), (_question, 0.08)],
}  # fmt: skip
