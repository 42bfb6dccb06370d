"""The official clients as tests see them: one long-lived process per version, in its own environment.

Owns the process and the words to it; what an answer should be is not its business.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.launchdarkly.contract import Endpoint

DRIVER = Path(__file__).with_name("driver.py")
VERSIONS = {"22": "22.0.0", "25": "25.0.1"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client made of one call. `error`: its parsed model of the body, if it has one for the status."""

    status: int | None
    seconds: float
    data: dict[str, Any] = field(default_factory=dict)
    exception: str | None = None
    error: dict[str, Any] | None = None
    body: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def code(self) -> str | None:
        """Return the code of an error, also of one that the client has no model for."""
        return str(json.loads(self.body or "{}").get("code"))


class OfficialClient:
    def __init__(self, version: str, process: subprocess.Popen[str]) -> None:
        self.version = version
        self._process = process

    def call(
        self,
        host: str,
        token: str | None,
        endpoint: Endpoint,
        query: Sequence[tuple[str, str]] = (),
        path_values: Mapping[str, str] | None = None,
    ) -> Answer:
        """Call the typed method or, where that cannot say the query (in the names of the wire), its serializer."""
        names = endpoint.parameters_of(self.version)
        in_path = {endpoint.path_parameters[name]: value for name, value in (path_values or {}).items()}
        is_typed = len(dict(query)) == len(query) and all(name in names for name, _ in query)
        if not is_typed:
            return self.call_raw(host, token, endpoint, query, path_values)
        arguments = {**in_path, **{names[name]: value for name, value in query}}
        return self._ask({"host": host, "token": token, "method": endpoint.method, "arguments": arguments})

    def call_raw(
        self,
        host: str,
        token: str | None,
        endpoint: Endpoint,
        query: Sequence[tuple[str, str]] = (),
        path_values: Mapping[str, str] | None = None,
        *,
        verb: str = "GET",
    ) -> Answer:
        return self._ask(
            {
                "host": host,
                "token": token,
                "verb": verb,
                "path": endpoint.path,
                "path_parameters": dict(path_values or {}),
                "query": list(query),
                "models": endpoint.models_of(self.version),
            }
        )

    @cached_property
    def reported_version(self) -> str:
        return str(self._read()["version"])

    def _ask(self, request: dict[str, Any]) -> Answer:
        assert self.reported_version
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        return Answer(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"The client's process ended with {self._process.wait(10)}."
        return dict(json.loads(line))


@contextmanager
def official_client(version: str) -> Iterator[OfficialClient]:
    python = Path(sys.prefix) / "clients" / f"launchdarkly-{version}" / "bin" / "python"
    assert python.exists(), f"{python} is missing: `make setup` creates it."
    # -I: nothing of ours, neither modules nor variables, gets into the client's environment. The process ends when its
    # input does, also if we are killed.
    process = subprocess.Popen(
        [python, "-I", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    with process:
        yield OfficialClient(version, process)
