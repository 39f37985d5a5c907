"""A client that sends requests all the time, and counts what came back."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

_LIMIT = 5.0


@dataclass
class Counts:
    """What happened to the requests of one stretch of time."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def __str__(self) -> str:
        lost = len(self.failures)
        first = f" (the first: {self.failures[0]})" if lost else ""
        return f"{self.sent} requests sent, {self.sent - lost} answered, {lost} failed{first}; slowest {self.slowest * 1000:.0f} ms"


def ask(port: int, path: str = "/") -> dict[str, Any]:
    """Return the answer to one request through the load balancer.

    Raises:
        OSError, http.client.HTTPException: there was none.
        ValueError: it was not the app's.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_LIMIT)
    try:
        connection.request("GET", path, headers={"Host": "localhost"})
        response = connection.getresponse()
        body = response.read()
        if response.status != http.client.OK:
            raise ValueError(f"status {response.status}")
        answer = json.loads(body)
        return answer if isinstance(answer, dict) else {}
    finally:
        connection.close()


class Traffic:
    """Sends requests from several threads while the `with` block runs; `counts` has the sum afterwards."""

    def __init__(self, port: int, *, clients: int = 4, pause: float = 0.02) -> None:
        self._port = port
        self._pause = pause
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(clients)]
        self.counts = Counts()

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(_LIMIT * 2)

    def _send(self) -> None:
        while not self._end.wait(self._pause):
            begun, failure, version = time.monotonic(), "", ""
            try:
                version = f"version {ask(self._port)['version']}"
            except (OSError, ValueError, KeyError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {error}"
            with self._lock:
                self.counts.sent += 1
                self.counts.slowest = max(self.counts.slowest, time.monotonic() - begun)
                if failure:
                    self.counts.failures.append(failure)
                else:
                    self.counts.answers[version] += 1
