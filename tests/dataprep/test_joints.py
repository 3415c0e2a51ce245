"""Contents are tokenised apart from a template's text only where nothing can join across the edges."""

import json
from typing import Any

import pytest

from tunewright.dataprep.joints import Joints

GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
CHATML = ["<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"]


def joints(pre_tokenizer: Any = GPT2, normalizer: Any = None, tokens: tuple[str, ...] = (), **flags: bool) -> Joints:  # noqa: ANN401
    own = [{"content": name, "special": True, **flags} for name in ("<|im_start|>", "<|im_end|>", *tokens)]
    return Joints(json.dumps({"pre_tokenizer": pre_tokenizer, "normalizer": normalizer, "added_tokens": own}))


def test_chatml_parts_contents() -> None:
    assert joints().part(CHATML)
    assert joints(normalizer={"type": "NFC"}).part(CHATML)


@pytest.mark.parametrize(
    "frame",
    [
        ["<|im_start|>user: ", CHATML[1], CHATML[2]],  # a space belongs to the word after it
        ["<|im_start|>user\n\n", CHATML[1], CHATML[2]],  # two breaks are one piece at the end, two before a word
        [CHATML[0], "\nassistant\n", CHATML[2]],  # no special token behind the first content
        [CHATML[0], CHATML[1], " END"],
    ],
)
def test_frames_that_may_join_a_content_do_not_part(frame: list[str]) -> None:
    assert not joints().part(frame)


def test_tokenizers_that_are_not_known_part_nothing() -> None:
    assert not joints(pre_tokenizer={"type": "Metaspace"}).part(CHATML)
    assert not joints(pre_tokenizer={**GPT2, "add_prefix_space": True}).part(CHATML)
    assert not joints(normalizer={"type": "Lowercase"}).part(CHATML)
    assert not joints(rstrip=True).part(CHATML), "the token takes white space of the content with it"


def test_a_special_token_that_could_begin_in_a_content_parts_nothing() -> None:
    assert not joints(tokens=("!<|im_end|>",)).part(CHATML)
