"""What the workers of a Ray cluster and the stage tell each other: messages one way, a wish to stop the other.

Runs as an actor of its own; its end is the sign for the workers to end. Knows neither.
"""

from typing import Any


class Mailbox:
    """Keeps messages until they are taken."""

    def __init__(self) -> None:
        self._messages: list[tuple[int, dict[str, Any]]] = []
        self._stop = False

    def put(self, rank: int, message: dict[str, Any]) -> None:
        """Keep a message."""
        self._messages.append((rank, message))

    def take(self) -> list[tuple[int, dict[str, Any]]]:
        """Return what was kept, and forget it."""
        found, self._messages = self._messages, []
        return found

    def wish_stop(self) -> None:
        """Wish that the run stops."""
        self._stop = True

    def stop_wished(self) -> bool:
        """Return True once somebody wished so."""
        return self._stop
