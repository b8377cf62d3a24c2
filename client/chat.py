"""A conversation in the terminal.

Guarantees: Ctrl-C during an answer cancels that answer only, and what came of it stays in the history; Ctrl-C or
end-of-file at the prompt, or /quit, ends the chat; an error ends a turn, never the chat.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO

from ..errors import FolkmootError
from .answer import Answer
from .api import FolkmootClient, Message

PROMPT = "> "
HELP = "/new forgets the conversation, /quit (or Ctrl-D) ends it; Ctrl-C stops an answer"


class TerminalChat:
    """A conversation with a network, with its history."""

    def __init__(
        self,
        client: FolkmootClient,
        *,
        read_line: Callable[[str], str],
        output: TextIO,
        notices: TextIO,
        temperature: float | None = None,
        system: str | None = None,
    ) -> None:
        """Answers go to `output`, all else to `notices`; `read_line` shows a prompt and raises EOFError at the end."""
        self._client = client
        self._read_line = read_line
        self._output = output
        self._notices = notices
        self._temperature = temperature
        self._opening: list[Message] = [{"role": "system", "content": system}] if system else []
        self.history: list[Message] = list(self._opening)

    def run(self) -> None:
        """Talks until the user ends it."""
        self._notice(HELP)
        while True:
            try:
                line = self._read_line(PROMPT).strip()
            except (EOFError, KeyboardInterrupt):
                self._notice("")
                return
            match line:
                case "":
                    continue
                case "/quit" | "/exit":
                    return
                case "/new":
                    self.history = list(self._opening)
                    self._notice("the conversation is forgotten")
                case _ if line.startswith("/"):
                    self._notice(HELP)
                case _:
                    self._turn(line)

    def _turn(self, question: str) -> None:
        asked: list[Message] = [*self.history, {"role": "user", "content": question}]
        pieces: list[str] = []
        try:
            with self._client.chat(asked, temperature=self._temperature) as answer:
                self._show(answer, pieces)
        except KeyboardInterrupt:
            self._notice("\n(stopped)")
        except FolkmootError as error:
            self._notice(f"\nerror: {error}" if pieces else f"error: {error}")
        if pieces:
            self.history = [*asked, {"role": "assistant", "content": "".join(pieces)}]

    def _show(self, answer: Answer, pieces: list[str]) -> None:
        for piece in answer:
            pieces.append(piece)
            self._output.write(piece)
            self._output.flush()
        self._output.write("\n")
        self._output.flush()
        nodes, verified = (
            len(answer.accounting.get("nodes", [])),
            answer.accounting.get("results_verified", 0),
        )
        self._notice(f"({nodes} nodes, {verified} results verified, {answer.tokens_per_second:.1f} tokens/s)")

    def _notice(self, text: str) -> None:
        print(text, file=self._notices, flush=True)
