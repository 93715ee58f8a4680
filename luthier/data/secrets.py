"""Secrets and personal data that stand in a text.

What goes in: a text. What comes out: how many of each kind it holds, never what they are; and the text with all of them
covered. Forms are those that the issuers publish; what only looks random is left alone, since hashes and ids do too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

COVER = "█████"

_KEY_HINTS = {
    "_": ("ghp_", "gho_", "ghs_", "ghu_", "ghr_", "github_pat_", "hf_", "sk_live_", "rk_live_", "npm_", "dop_v1_"),
    "-": ("sk-", "glpat-", "xox", "pypi-AgE"),
    ":": ("bot",),
    "": ("AKI", "ASIA", "AIza", "SG.", "LTAI", "eyJ"),
}
"""A character -> beginnings of keys that hold it. They are looked for first: a text without any needs no regular
expression."""
_KEY = re.compile(
    r"(?<![A-Za-z0-9_\-])(?:"
    r"sk-(?:ant-|proj-|svcacct-|or-v1-)?[A-Za-z0-9_\-]{20,}"  # OpenAI, Anthropic, OpenRouter, DeepSeek
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,}|glpat-[A-Za-z0-9_\-]{20,}"  # GitHub, GitLab
    r"|xox[abeoprs]-[A-Za-z0-9\-]{10,}"  # Slack
    r"|AIza[A-Za-z0-9_\-]{35}"  # Google
    r"|hf_[A-Za-z0-9]{30,}"  # Hugging Face
    r"|[sr]k_live_[A-Za-z0-9]{20,}"  # Stripe
    r"|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_\-]{40,}"
    r"|SG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43}"  # SendGrid
    r"|LTAI[A-Za-z0-9]{12,20}|AKID[A-Za-z0-9]{32}"  # Alibaba Cloud, Tencent Cloud
    r"|dop_v1_[a-f0-9]{64}"  # DigitalOcean
    r"|eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{10,}"  # JSON web tokens
    r"|bot[0-9]{8,10}:[A-Za-z0-9_\-]{35}"  # Telegram
    r")(?![A-Za-z0-9_\-])"
)
_PRIVATE = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----")
_PRIVATE_WHOLE = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.S
)
_MAIL = re.compile(r"(?<![\w.+\-])([\w.+\-]{1,64})@((?:[\w\-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w\-])", re.A)
_INVENTED = re.compile(
    r"(?:^|\.)(?:example\.(?:com|org|net|edu)|[\w\-]+\.(?:example|test|invalid|localhost)|(?:e?mail|domain|company)\.com)$",
    re.I,
)
"""Domains that nobody owns (RFC 2606) or that stand for any other."""
_DIGITS = re.compile(r"[0-9](?:[ \-]?[0-9]){12,18}(?![0-9\-]|\.[0-9])")
"""What stands before is looked at afterwards: a pattern that begins with a set is searched for three times as fast."""
_ISSUERS = re.compile(
    r"4\d{12}(?:\d{3})?(?:\d{3})?|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|6(?:011|5\d\d)\d{12}|35(?:2[89]|[3-8]\d)\d{12}|62\d{14,17}"
)
"""Numbers that Visa, Mastercard, American Express, Discover, JCB and UnionPay give out."""
_LUHN_DOUBLE = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def kinds(text: str) -> dict[str, int]:
    """private, key, mail, card -> how many; kinds that do not occur are absent."""
    found: dict[str, int] = {}
    for kind, _, _ in _places(text):
        found[kind] = found.get(kind, 0) + 1
    return found


def covered(text: str) -> str:
    """The text with every secret covered."""
    text = _PRIVATE_WHOLE.sub(COVER, text)
    for _, start, end in sorted(_places(text), key=lambda place: -place[1]):
        text = text[:start] + COVER + text[end:]
    return text


def _places(text: str) -> Iterator[tuple[str, int, int]]:
    if "PRIVATE KEY" in text:
        yield from (("private", *each.span()) for each in _PRIVATE.finditer(text))
    if any(hint in text for mark, hints in _KEY_HINTS.items() if mark in text for hint in hints):
        yield from (("key", *each.span()) for each in _KEY.finditer(text))
    if "@" in text:
        yield from (("mail", *each.span()) for each in _MAIL.finditer(text) if not _INVENTED.search(each[2]))
    for each in _DIGITS.finditer(text):
        digits = re.sub(r"[ \-]", "", each[0])
        before = text[max(0, each.start() - 1) : each.start()]
        if before.isdigit() or before in ("-", "."):
            continue
        if _ISSUERS.fullmatch(digits) and passes_luhn(digits) and len(set(digits)) > 3:
            yield "card", *each.span()


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    values = [int(digit) for digit in reversed(digits)]
    return (sum(values[::2]) + sum(_LUHN_DOUBLE[value] for value in values[1::2])) % 10 == 0
