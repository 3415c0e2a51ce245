"""A base's chat template, rendered as transformers renders it, without transformers and without torch.

The environment is that of `transformers.utils.chat_template_utils` (5.17): sandboxed, blocks trimmed, loop controls,
the `generation` tag; but the date that templates may ask for is always TEMPLATE_DATE, as in the trainer. A contract
test holds both to the same text and the same marks. Knows no tokenizer.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tunewright.artifacts.conversations import for_template, left_out_by, strftime_now, used_of
from tunewright.chassis.errors import InvalidData
from tunewright.dataprep.tool_use import split_tools

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_OPEN, _CLOSE = "\x00generation\x00", "\x00endgeneration\x00"
"""Put around marked pieces while rendering; cleaned rows hold no NUL."""
_PIECES = re.compile(f"({_OPEN}|{_CLOSE})")
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplate:
    """One template with the special tokens that it may name.

    Messages are a row's; the definitions of its tools, where it has some, are the first of them, of role `tools`.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self.marked = bool(_MARKERS.search(source))
        """True if the template marks the assistant's words by `{% generation %}`."""
        self._special = dict(special_tokens)
        self._environment = _environment()
        try:
            self._template = self._environment.from_string(source)
        except TemplateError as error:
            raise InvalidData(
                f"the base's chat template is no valid template: {error}",
                remedy="Correct chat_template.jinja in the base's folder, or take another base.",
            ) from error

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False) -> str:
        """Return the conversation as text. Raises jinja2's TemplateError where the template refuses it."""
        return self._marked_text(messages, add_generation_prompt=add_generation_prompt)[0]

    @cached_property
    def left_out(self) -> set[str]:
        """The parts of tool use that the template drops without a word."""
        return left_out_by(
            lambda messages, tools: self._text(messages, tools, add_generation_prompt=False), TemplateError
        )

    def dropped_of(self, messages: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return which parts of tool use of a row the template drops without a word."""
        used = used_of(*split_tools(messages))
        return sorted(used & self.left_out) if used else []

    def render_marked(self, messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[tuple[int, int]]]:
        """Return the text, and where in it the template marked the assistant's words (start, end)."""
        return self._marked_text(messages, add_generation_prompt=False)

    def parse(self) -> nodes.Template:
        """Return the template's syntax tree."""
        return self._environment.parse(self.source)

    def _marked_text(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        own, tools = split_tools(messages)
        raw = self._text(for_template(own), tools, add_generation_prompt=add_generation_prompt)
        pieces, spans, at, start = [], [], 0, 0
        for piece in _PIECES.split(raw):
            if piece == _OPEN:
                start = at
            elif piece == _CLOSE:
                spans.append((start, at))
            else:
                pieces.append(piece)
                at += len(piece)
        return "".join(pieces), spans

    def _text(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None, *, add_generation_prompt: bool
    ) -> str:
        """Return what the template makes of messages that are as templates take them."""
        try:
            return self._template.render(
                messages=list(messages),
                tools=tools,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special,
            )
        except TypeError as error:  # a template that knows no tools may add texts to what is none
            raise TemplateError(f"it fails on this row: {error}") from error


def load_template(folder: Path) -> ChatTemplate | None:
    """Return the template that lies in a base's folder, None if there is none.

    Raises:
        InvalidData: a file of the tokenizer is not JSON, or the template does not parse.
    """
    config = read_json(folder / "tokenizer_config.json")
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):
        named = {entry["name"]: entry["template"] for entry in source}
        source = named.get("default")
    return ChatTemplate(source, special_tokens(config)) if source else None


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """Return name → text of the special tokens in a tokenizer_config.json."""
    found = {name: config.get(name) for name in _SPECIAL}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object's values; empty if there is no such file.

    Raises:
        InvalidData: the file is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidData(f"the base's {path.name} is not JSON: {error}", remedy="Import the base again.") from error
    if not isinstance(document, dict):
        raise InvalidData(f"the base's {path.name} is no JSON object", remedy="Import the base again.")
    return document


class _Generation(Extension):
    """`{% generation %} … {% endgeneration %}`: renders its body between two signs."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own way to name them

    def parse(self, parser: Parser) -> nodes.CallBlock:
        """Return the block's node; its body is what stands up to the end tag."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = nodes.CallBlock(self.call_method("_mark"), [], [], body)
        block.set_lineno(line)
        return block

    def _mark(self, caller: Macro) -> str:
        return f"{_OPEN}{caller()}{_CLOSE}"


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = strftime_now
    return environment


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,  # noqa: ANN401 - whatever a template holds
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - called by templates
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - likewise
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
