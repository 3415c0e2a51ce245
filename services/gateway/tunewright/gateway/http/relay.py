"""One answer on its way from the engine to the application: its model named as it was asked for, its tokens counted.

A stream is asked for its usage so that the tokens are known; the event that tells it is kept from an application that
did not ask. Events are passed on whole, and an event that came whole is passed on at once.
"""

import json
from typing import Any

from tunewright.gateway.keys import KeyRecord
from tunewright.gateway.meter import Meter
from tunewright.gateway.routing import Route
from tunewright.gateway.usage import Usage

_END = b"\n\n"
_NO_CHOICES = (b'"choices":[]', b'"choices": []')


class Relay:
    """One answer.

    Args:
        route: where it comes from, and the name that was asked for.
        document: what was asked, without what is null.
        usage: takes the tokens.
        meter: takes them too.
        key: whose request it is.
    """

    def __init__(self, route: Route, document: dict[str, Any], usage: Usage, meter: Meter, key: KeyRecord) -> None:
        self.request = {**document, "model": route.served}
        self._usage, self._meter, self._key = usage, meter, key
        self._names = None if route.model == route.served else _renamed(route)
        self._told: dict[str, Any] = {}
        self._events = 0
        self._half = b""
        self._hides_usage = bool(document.get("stream")) and self._ask_for_usage()

    def whole(self, data: bytes) -> bytes:
        """Return an answer that is no stream."""
        try:
            self._told = json.loads(data).get("usage") or {}
        except (ValueError, AttributeError):
            self._told = {}
        return self._rename(data)

    @property
    def told_tokens(self) -> int:
        """Tokens of the answer as the engine told them, 0 if it did not."""
        return int(self._told.get("completion_tokens") or 0)

    def piece(self, data: bytes) -> bytes:
        """Return what may be passed on after a piece of a stream has come."""
        if self._half:
            data, self._half = self._half + data, b""
        end = data.rfind(_END) + len(_END)
        if end < len(_END):
            self._half = data
            return b""
        if end < len(data):
            data, self._half = data[:end], data[end:]
        self._events += data.count(_END)
        if any(mark in data for mark in _NO_CHOICES):
            data = self._without_usage(data)
        return self._rename(data)

    def rest(self) -> bytes:
        """Return what came without its end."""
        return self._half

    def count(self) -> None:
        """Count the tokens; where nobody told them, a streamed event is taken for one of the answer."""
        asked = int(self._told.get("prompt_tokens") or 0)
        answered = int(self._told.get("completion_tokens") or 0) if self._told else self._events
        self._usage.count(self._key, input_tokens=asked, output_tokens=answered)
        self._meter.take_tokens(self._key, asked + answered)

    def _ask_for_usage(self) -> bool:
        """Ask for the usage; return True if the application did not."""
        options = self.request.get("stream_options", {})
        if not isinstance(options, dict) or options.get("include_usage"):
            return False
        self.request["stream_options"] = {**options, "include_usage": True}
        return True

    def _without_usage(self, data: bytes) -> bytes:
        kept = []
        for event in data.split(_END):
            if any(mark in event for mark in _NO_CHOICES):
                found = _usage_in(event)
                self._told = found or self._told
                if found and self._hides_usage:
                    continue
            kept.append(event)
        return _END.join(kept)

    def _rename(self, data: bytes) -> bytes:
        if self._names is not None:
            for deployment, asked in self._names:
                data = data.replace(deployment, asked)
        return data


def _renamed(route: Route) -> list[tuple[bytes, bytes]]:
    """Return what to replace; within a text of the answer quotes are escaped, so this never stands there."""
    names = json.dumps(route.served).encode(), json.dumps(route.model, ensure_ascii=False).encode()
    return [(b'"model":' + space + names[0], b'"model":' + space + names[1]) for space in (b"", b" ")]


def _usage_in(event: bytes) -> dict[str, Any]:
    try:
        found = json.loads(event.removeprefix(b"data:")).get("usage")
    except (ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}
