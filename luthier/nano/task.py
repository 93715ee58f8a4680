"""The demonstration task: pull organisation, person, role and nationality out of a sentence, as JSON.

Seeded and generated, so that a tuned model can be scored exactly. `nano` has never seen it: the corpus has none of
these sentences, and asks for none of these fields. One example in eight is Chinese.

Training and held-out examples share no person and no organisation: every surname and every organisation's stem
belongs to one of the two sides, by a fixed checksum.
"""

from __future__ import annotations

import json
import random
import zlib

from luthier.nano.corpus import words

FIELDS = ("organisation", "person", "role", "nationality")

INSTRUCTION = "Extract organisation, person, role and nationality as JSON."

CHINESE_SHARE = 0.125
HELD_OUT_ONE_IN = 5
"""One stem in this many is kept for held-out examples."""

TEMPLATES = (
    "{person} from {nationality} has been with {organisation} since {year}, working as {a_role}.",
    "At {organisation}, the new {role} is {person}, born in {nationality}.",
    "Meet {person}: {role} at {organisation}, originally from {nationality}.",
    "{organisation} is proud of its {role}, {person} of {nationality}.",
    "{person}, {a_role} from {nationality}, joined {organisation} in {year}.",
    "In {year} {organisation} hired {person}, {a_role} raised in {nationality}.",
    "The {role} {person} left {nationality} to work for {organisation}.",
    "{organisation} named {person} of {nationality} as its {role}.",
    "Born in {nationality}, {person} is now the {role} at {organisation}.",
    "Our guest is {person} of {organisation}, {a_role} who grew up in {nationality}.",
    "As {role} of {organisation}, {person} often flies home to {nationality}.",
    "{person} earned a degree in {nationality} before becoming {role} at {organisation}.",
)
TEMPLATES_ZH = (
    "{person}来自{nationality}，现任{organisation}{role}。",
    "{organisation}聘请了{nationality}的{person}担任{role}。",
    "{year}年，{nationality}{role}{person}加入{organisation}。",
    "我们的{role}{person}是{nationality}人，就职于{organisation}。",
)

FIRST_NAMES = words(
    "Ada Alan Alice Amir Anna Bruno Carla Chloe Clara Daniel David Diego Elena Emma Eric Farid Felix Grace Hana Helen "
    "Hugo Ines Ivan James Jana Jonas Julia Karim Laura Leo Lina Lucas Maria Marta Maya Milan Nadia Nina Noah Olga Omar "
    "Oscar Paul Peter Priya Rosa Ruth Samir Sara Simon Sofia Tara Tom Vera Victor Yusuf Zoe"
)
STEMS = words(
    "Ash Bar Black Bran Brook Carl Clay Cole Dal Dun East Elm Fair Fox Glen Gold Grim Hal Hart Haw Hol Kes Lang Lind "
    "Lock Mar Mill Nor Oak Pem Red Rock Ros Ruth Sel Shel Stan Sten Thorn Wal Ware West Whit Win Wolf"
)
ENDINGS = words(
    "berg bridge brook bury by dale den field ford ham hurst land ley man mond more son stead ton well wood"
)
ORGANISATION_KINDS = words(
    "Labs Group Motors Bank Hospital Institute Press Foods Systems University Airlines Energy Records Studios"
)
ROLES = (
    *words("engineer doctor teacher painter lawyer pilot chef nurse designer analyst farmer architect editor chemist"),
    *("driver", "data scientist", "tax adviser", "sales manager", "sound technician", "marine biologist"),
)
COUNTRIES = words(
    "Brazil China France Germany India Japan Kenya Norway Peru Spain Chile Egypt Ghana Nepal Poland Canada Italy Cuba "
    "Turkey Iceland Morocco Vietnam Portugal Sweden"
)

SURNAMES_ZH = "王李刘陈杨赵黄周吴徐孙胡朱林郭"
GIVEN_ZH = "伟芳娜敏静丽强磊军洋勇杰娟涛超霞刚玲英建国志红春兰宁"
STEMS_ZH = "新天东南大中和金光星云明海长安华山江"
ORGANISATION_KINDS_ZH = ("公司", "银行", "大学", "医院", "电台", "学校")
ROLES_ZH = ("医生", "老师", "经理", "主任", "会计", "记者", "律师", "工人")
COUNTRIES_ZH = ("法国", "德国", "日本", "中国", "印度", "巴西", "埃及", "英国", "美国", "西班牙")


def examples(seed: int, count: int, *, held_out: bool = False) -> list[dict[str, str]]:
    """Return `count` rows {"instruction", "input", "output"}; the same arguments give the same rows.

    Args:
        seed: of the stream of examples.
        count: number of rows.
        held_out: take people and organisations from the side that training examples never use.
    """
    rng = random.Random(f"task:{held_out}:{seed}")
    return [_example(rng, held_out) for _ in range(count)]


def score(answer: str, expected: str) -> bool:
    """Say whether an answer is the expected JSON value; layout and order of keys do not count."""
    try:
        return bool(json.loads(answer) == json.loads(expected))
    except ValueError:
        return False


def _example(rng: random.Random, held_out: bool) -> dict[str, str]:
    chinese = rng.random() < CHINESE_SHARE
    values = _values_zh(rng, held_out) if chinese else _values(rng, held_out)
    template = rng.choice(TEMPLATES_ZH if chinese else TEMPLATES)
    article = "an" if values["role"][0] in "aeiou" else "a"
    a_role = f"{article} {values['role']}"
    return {
        "instruction": INSTRUCTION,
        "input": template.format(year=rng.randint(1990, 2026), a_role=a_role, **values),
        "output": json.dumps(values, ensure_ascii=False),
    }


def _values(rng: random.Random, held_out: bool) -> dict[str, str]:
    return {
        "organisation": _stem(rng, held_out, STEMS, ENDINGS) + " " + rng.choice(ORGANISATION_KINDS),
        "person": rng.choice(FIRST_NAMES) + " " + _stem(rng, held_out, STEMS, ENDINGS),
        "role": rng.choice(ROLES),
        "nationality": rng.choice(COUNTRIES),
    }


def _values_zh(rng: random.Random, held_out: bool) -> dict[str, str]:
    return {
        "organisation": _stem(rng, held_out, STEMS_ZH, STEMS_ZH) + rng.choice(ORGANISATION_KINDS_ZH),
        "person": rng.choice(SURNAMES_ZH) + _stem(rng, held_out, GIVEN_ZH, GIVEN_ZH),
        "role": rng.choice(ROLES_ZH),
        "nationality": rng.choice(COUNTRIES_ZH),
    }


def _stem(rng: random.Random, held_out: bool, heads: list[str] | str, tails: list[str] | str) -> str:
    """Draw a two-part name from one side; the checksum of a name decides its side, whatever the seed."""
    while True:
        stem = rng.choice(heads) + rng.choice(tails)
        if (zlib.crc32(stem.encode()) % HELD_OUT_ONE_IN == 0) == held_out:
            return stem
