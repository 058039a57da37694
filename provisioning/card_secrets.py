"""Where a card's secrets come from: files, the environment, a person, the authority; never an option."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from provisioning.card import CardError, Secret

MAX_FILE_BYTES = 64 * 1024
PASSPHRASE, TOKEN = "BRAMBLE_WIFI_PASSPHRASE", "BRAMBLE_ENROLMENT_TOKEN"

Ask = Callable[[str], str]
Issue = Callable[[str], str]  # a new token for a name


class Secrets:
    """Where secrets come from: a file, the environment, or `ask` (None: nobody is there to be asked).

    `issue` makes a token where none is given (None: there is no authority at hand).
    """

    def __init__(
        self, environment: Mapping[str, str], ask: Ask | None = None, issue: Issue | None = None
    ) -> None:
        self._environment = environment
        self._ask = ask
        self.issue = issue
        self._answers: dict[str, str] = {}

    def get(self, path: str | None, variable: str, question: str) -> Secret | None:
        """The secret; None where no source has it. A question is asked once, however many cards need it."""
        if path is not None:
            return Secret(read_text(Path(path)).strip("\r\n"))
        if self._environment.get(variable):
            return Secret(self._environment[variable])
        if self._ask is None:
            return None
        if question not in self._answers:
            self._answers[question] = self._ask(f"{question}: ")
        return Secret(self._answers[question])


def read_text(path: Path) -> str:
    """A small text file."""
    try:
        data = path.expanduser().read_bytes()
        if len(data) > MAX_FILE_BYTES:
            raise CardError(f"{path}: {len(data)} bytes are too many for a key, a certificate or a token")
        return data.decode("utf-8")
    except OSError as exc:
        raise CardError(f"{path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise CardError(f"{path}: not a text file") from exc
