"""Personal data is found by form and checksum; what only looks like it stays."""

import json
import random
import re
import string
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunewright.dataprep.excerpts import excerpt
from tunewright.dataprep.guards import DIGITS
from tunewright.dataprep.json_texts import is_json
from tunewright.dataprep.pii import finding, masking
from tunewright.dataprep.pii.finding import KINDS, find
from tunewright.dataprep.pii.masking import PLACEHOLDERS, mask
from tunewright.dataprep.rules import apply
from tunewright.dataprep.scanning import scan
from tunewright.dataprep.spec import DataprepSpec, Pii

MASKED = {
    "Write to joe.doe+x@mail.example-shop.co.uk.": "Write to [EMAIL].",
    "邮箱zhangsan@qq.com，谢谢": "邮箱[EMAIL]，谢谢",
    "call +44 20 7946 0123 or +49 (0)30 901820": "call [PHONE] or [PHONE]",
    "我的手机是13812345678，座机010-62345678。": "我的手机是[PHONE]，座机[PHONE]。",
    "(212) 456-7890 and 212-456-7890": "[PHONE] and [PHONE]",
    "card 4532 0151 1283 0366, 4532015112830366": "card [CARD], [CARD]",
    "IBAN DE89 3704 0044 0532 0130 00 now": "IBAN [IBAN] now",
    "身份证11010519491231002X。": "身份证[ID]。",
    "SSN 536-90-4399": "SSN [ID]",
    "postgres://bob:s3cr3tP4ss@db.shop.io/x": "postgres://bob:[SECRET]@db.shop.io/x",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a": "[SECRET]",
    'api_key = "9aF3kQ7zL2mX8vB4nR6tY1wE"': 'api_key = "[SECRET]"',
}
LEFT = [
    "user@example.com, a@test.example.org, git@github.com:me/repo.git, icon@2x.png, lodash@4.17.21",
    "version 1.2.13812345678 and 10.0.0.1",
    "550e8400-e29b-41d4-a716-446655440000",
    "d41d8cd98f00b204e9800998ecf8427e 356a192b7913b04c54574d18c28d46e6395428ab",
    "ISBN 978-3-16-148410-0, ISBN 9783161484100, ISBN 0-306-40615-2",
    "at 1700000000, 1700000000000, 2024-01-02 03:04:05, 20240102030405",
    "pi is 3.14159265358979323846",
    "4532 0151 1283 0367 fails Luhn; 110105194912310021 and DE88370400440532013000 fail their sums",
    "https://shop.io/item/13812345678?id=4532015112830366",
    "+1 212 555 0123 and 212-555-0199 are fiction's",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxx, api_key = YOUR_API_KEY_GOES_HERE_1",
    "1, 2, 3, 4, 5, 6, 7, 8, 9 and 1000000000 rows",
    "@decorator\ndef f(a): return a@b",
]


@pytest.mark.parametrize("text", MASKED)
def test_what_is_personal_is_masked(text: str) -> None:
    assert mask(text, Pii(), int(scan([text])[0])).text == MASKED[text]


@pytest.mark.parametrize("text", LEFT)
def test_what_only_looks_personal_stays(text: str) -> None:
    assert find(text) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_masked_dropped_or_kept_as_asked(kind: str) -> None:
    text = next(text for text, masked in MASKED.items() if PLACEHOLDERS[kind] in masked)
    flags = int(scan([text])[0])
    assert mask(text, Pii.from_mapping({kind: "keep"}), flags).text == text
    assert mask(text, Pii.from_mapping({kind: "drop"}), flags).drop == kind
    assert mask(text, Pii(), flags).kinds[kind] > 0


@pytest.mark.parametrize("masked", MASKED.values())
def test_a_placeholder_is_no_personal_data(masked: str) -> None:
    assert find(masked) == []


PATTERNS = {
    finding._CARD: 13,
    finding._CHINESE_ID: 17,
    finding._SOCIAL_SECURITY: 9,
    **{pattern: least for pattern, least, _ in finding._PHONES},
}
NUMBERS = st.one_of(
    *(
        st.from_regex(pattern.pattern.replace("\\2", "-"), alphabet=st.sampled_from("0123456789 .-+()（）转xX6a"))
        for pattern in PATTERNS
    ),
    st.text("0123456789 .-+()（）转xXa\n", max_size=24),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(NUMBERS, max_size=5).map("".join))
def test_looking_only_where_digits_are_finds_what_looking_everywhere_does(text: str) -> None:
    numbers = [finding._number(match) for match in finding._NUMBER.finditer(text)]
    abroad = [number for number in numbers if finding._may_be_international(text, number)]
    checks = {pattern: check for pattern, _, check in finding._PHONES}
    for pattern, least in PATTERNS.items():
        whole = _long(pattern.finditer(text))
        places = abroad if pattern is finding._INTERNATIONAL else numbers
        assert _long(finding._in_numbers(pattern, text, places, least)) == whole
        if pattern not in checks or any(map(checks[pattern], whole)):
            assert not whole or scan([text])[0] & DIGITS


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(["tel", "Phone number", "电话", "fax no."]), st.text(" \n\u3000", max_size=70), NUMBERS, NUMBERS)
def test_a_number_that_is_named_a_phone_is_not_passed_over(name: str, space: str, before: str, number: str) -> None:
    for sign in (":", "：", " is", " IS", " i\u017f", "是", "为", ""):
        text = f"{before}{name}{sign}{space}{number}"
        places = [finding._number(match) for match in finding._NUMBER.finditer(text)]
        named = [match for match in finding._NAMED.finditer(text) if sum(map(str.isdigit, match[1])) >= 7]
        assert not named or any(finding._is_announced(text, place.start) for place in places)


def _long(matches: Iterable[re.Match[str]]) -> list[str]:
    return [match[0] for match in matches if sum(map(str.isdigit, match[0])) >= 7]


@settings(max_examples=200, deadline=None)
@given(st.from_regex(finding._FORMS, fullmatch=True))
def test_no_form_of_a_token_is_passed_over_for_lack_of_a_sign(token: str) -> None:
    assert finding._may_hold_secret(token)


@pytest.mark.parametrize(
    "text", ["API_KEY: x", "to\u212aen=x", "\u017fecret: x", "http://a:b@c", "-----BEGIN PRIVATE KEY-----"]
)
def test_named_secrets_logins_and_key_files_are_not_passed_over_either(text: str) -> None:
    assert finding._may_hold_secret(text)


RANDOM = random.Random(0)  # noqa: S311 - tokens for a test


def test_a_named_secret_of_letters_first_is_no_name_of_a_thing() -> None:
    letters = string.ascii_letters + string.digits
    tokens = ["".join(RANDOM.choices(letters, k=24)) for _ in range(400)]
    mixed = [token for token in tokens if any(map(str.isdigit, token))]
    found = sum(bool(find(f'{{"api_key": "{token}"}}')) for token in mixed)
    assert found > 0.9 * len(mixed)
    for name in ("AWS_SECRET_ACCESS_KEY", "module.function2", "projects/prod/secrets/db/20241109"):
        assert find(f'api_key = "{name}"') == []


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ("access_token=projects/prod/secrets/db/20241109", []),
        ("bGlrZUFuQXp1cmVTdG9yYWdlS2V5V2hpY2hJc0FsbW9zdE9ubHlMZXR0ZXJzQW5kRGlnaXRzQnV0Tm90UXVpdGU+zq3w==", ["secrets"]),
    ],
)
def test_a_value_of_many_words_run_together_is_judged(value: str, kinds: list[str]) -> None:
    # Words were tried in exponentially many ways: each further letter doubled the seconds.
    assert [found.kind for found in find(f'access_key = "{value}"')] == kinds


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('{"api_key": "8fWz3Kp0Lx7Vt2Rb9Nf4", "phone": 13912345678}', '{"api_key": "[SECRET]", "phone": "[PHONE]"}'),
        ('{"text": "\\u8054\\u7cfb\\u7535\\u8bdd13912345678"}', None),
        ('{"text": "Contact:\\n13912345678"}', '{"text": "Contact:\\n[PHONE]"}'),
        ('{"text": "card\\n4539578763621486 and 4539578763621486"}', '{"text": "card\\n[CARD] and [CARD]"}'),
    ],
)
def test_what_stands_behind_escapes_or_beside_another_place_is_masked_and_stays_json(
    text: str, masked: str | None
) -> None:
    row: list[Any] = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": text}]
    (treated,) = apply([row], DataprepSpec()).rows
    content = treated[1]["content"]
    assert "139" not in content
    json.loads(content)
    assert masked is None or content == masked


def test_a_report_shows_nothing_that_escapes_hide() -> None:
    shown = excerpt('{"body": "Call\\n13912345678", "n": "safe\\ntext"}')
    assert "139" not in shown
    assert "safe" in shown


def test_a_long_document_is_not_parsed_for_each_of_its_places(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"phone": 13812345678 + number, "note": f'say "call" +86 138 1234 {number:04d}\\'} for number in range(300)]
    parsed = []

    def counting(text: str) -> bool:
        parsed.append(len(text))
        return is_json(text)

    monkeypatch.setattr(masking, "is_json", counting)
    masked = masking.mask_json(json.dumps(rows), Pii())
    assert masked.kinds == {"phones": 600}
    assert json.loads(masked.text) == [{"phone": "[PHONE]", "note": 'say "call" [PHONE]\\'}] * 300
    assert len(parsed) < 20
