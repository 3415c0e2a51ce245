"""Talking to a model, in one question or in a conversation. The answer is printed as it comes.

Knows nothing of HTTP beyond the gateway's `chat`.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from tunewright.cli.client import Gateway

HELP = "/reset forgets the conversation, /exit or Ctrl-D ends it."


@dataclass
class Conversation:
    """The messages so far."""

    gateway: Gateway
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    """OpenAI's settings such as temperature and max_tokens, only those the person gave."""
    system: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, question: str, console: Console) -> str:
        """Print the answer as it comes and keep both; a question that fails is forgotten.

        Raises:
            CliError: no answer.
        """
        prompt = [{"role": "system", "content": self.system}] if self.system else []
        asked = [*self.messages, {"role": "user", "content": question}]
        pieces = []
        for piece in self.gateway.chat(self.model, [*prompt, *asked], **self.settings):
            pieces.append(piece)
            console.file.write(piece)
            console.file.flush()
        console.file.write("\n")
        answer = "".join(pieces)
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        return answer

    def interactive(self, console: Console) -> None:
        """Ask the person until they leave; Ctrl-C stops an answer, not the conversation."""
        console.print(f"[bold]{self.model}[/] at {self.gateway.endpoint.url}. {HELP}", style="dim")
        while (question := _question(console)) is not None:
            if question == "/reset":
                self.messages = []
                console.print("forgotten", style="dim")
            elif question:
                try:
                    self.ask(question, console)
                except KeyboardInterrupt:
                    console.print("\n(stopped)", style="dim")


def _question(console: Console) -> str | None:
    """Return the next question, None at the end."""
    try:
        text = console.input("[bold cyan]>[/] ") if sys.stdin.isatty() else input()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return None
    text = text.strip()
    return None if text in {"/exit", "/quit"} else text
