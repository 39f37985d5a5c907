"""The show, act by act. Every act tells what it does, does it, and counts what a client saw."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections import Counter
from typing import Any

from demo import image
from demo.stage import APP, ROOT, Stage, StageError, say, wait_until, write_shortcut
from demo.traffic import Counts, Traffic, ask

_AFTERWARDS = 1.0
_REQUESTS = 60


class Show:
    """The acts in order. `failed` counts the requests that clients lost."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._act = 0
        self._begun = time.monotonic()
        self.failed = 0

    def play(self) -> None:
        """Play all acts.

        Raises:
            StageError: an act did not work.
        """
        self._appliance()
        self._launch()
        self._kill()
        self._scale()
        self._update()
        self._finish()

    def _appliance(self) -> None:
        self._title("An appliance: one node with coordinator, agent and HAProxy")
        self._stage.start()
        if self._stage.socket is not None:
            say(f"building the image {image.IMAGE} from this machine's Python, nothing is pulled")
            image.build(self._stage.socket)
        if any(app["path"] == APP for app in self._stage.ask("ps", "--apps")["apps"]):
            say("the app of an earlier demo is removed first")
            self._stage.gestaltctl("delete", APP, "--yes")

    def _launch(self) -> None:
        self._title("Launch a web application with 3 instances")
        file = self._stage.describe(1, instances=3)
        self._stage.gestaltctl("launch", "-f", str(file))
        self._tally(3)

    def _kill(self) -> None:
        self._title("Kill an instance while clients send requests")
        victim, before = next(iter(sorted(self._stage.instances().items())))
        with Traffic(self._stage.port) as traffic:
            self._strike(victim, before)
            killed = time.monotonic()
            wait_until(f"{victim} runs again", lambda: self._is_back(victim, before))
            say(f"{victim} is back, healthy, and gets requests after {time.monotonic() - killed:.1f} s")
            time.sleep(_AFTERWARDS)
        self._judge(traffic.counts)

    def _scale(self) -> None:
        self._title("Scale to 5 instances")
        self._stage.gestaltctl("scale", APP, "5")
        self._tally(5)

    def _update(self) -> None:
        self._title("Update to a new version while clients send requests")
        file = self._stage.describe(2, instances=5)
        with Traffic(self._stage.port) as traffic:
            time.sleep(_AFTERWARDS / 2)
            self._stage.gestaltctl("update", "-f", str(file))
            time.sleep(_AFTERWARDS)
        say("answered by " + ", ".join(f"{version}: {count}" for version, count in sorted(traffic.counts.answers.items())))
        self._judge(traffic.counts)

    def _finish(self) -> None:
        self._title("How it is now")
        self._stage.gestaltctl("status")
        self._stage.gestaltctl("ps")
        shortcut = write_shortcut()
        say(f"\nThe demo took {time.monotonic() - self._begun:.0f} s; {self.failed} requests failed. It goes on running. Try:\n", style="1")
        say(f"  . {shortcut}")
        for command in (
            f"curl -s http://localhost:{self._stage.port}/",
            "gestaltctl ps",
            "gestaltctl events -f",
            "gestaltctl logs web --tail 3",
            "gestaltctl history web",
            "gestaltctl rollback web",
            f"gestaltctl plan -f {ROOT}/web-1.yaml",
            f"gestaltctl appliance status --root {ROOT}",
            "make demo-down        # removes every trace",
        ):
            say(f"  {command}")

    def _title(self, text: str) -> None:
        self._act += 1
        say(f"\n== {self._act}. {text}", style="1;36")

    def _tally(self, wanted: int) -> None:
        """Send requests until each of `wanted` instances has answered, and show who did."""
        answers: Counter[str] = Counter()
        wait_until(f"answers from {wanted} instances, so far {dict(answers)}", lambda: self._ask_into(answers, wanted), 30)
        while answers.total() < _REQUESTS:
            self._ask_into(answers, wanted)
        say(f"{answers.total()} requests to http://localhost:{self._stage.port}/ were answered by")
        for instance, count in sorted(answers.items()):
            say(f"  {instance:<28} {count}")

    def _ask_into(self, answers: Counter[str], wanted: int) -> bool:
        try:
            answers[ask(self._stage.port)["instance"]] += 1
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise StageError(f"a request failed: {error}") from error
        return len(answers) >= wanted

    def _strike(self, victim: str, before: dict[str, Any]) -> None:
        if self._stage.socket is not None:
            container = before["observed"]["runtime_id"]
            say(f"$ docker kill {container[:12]}    # {victim}", style="1")
            image.kill(self._stage.socket, container)
        else:
            answer = wait_until(f"an answer of {victim}", lambda: self._answer_of(victim))
            say(f"$ kill -9 {answer['pid']}    # {victim}", style="1")
            os.kill(answer["pid"], signal.SIGKILL)

    def _answer_of(self, instance: str) -> dict[str, Any] | None:
        answer = ask(self._stage.port)
        return answer if answer["instance"] == instance else None

    def _is_back(self, victim: str, before: dict[str, Any]) -> bool:
        now = self._stage.instances().get(victim)
        return now is not None and now["observed"]["attempt"] > before["observed"]["attempt"] and now["observed"]["ready"]

    def _judge(self, counts: Counts) -> None:
        self.failed += len(counts.failures)
        say(str(counts), style="32" if not counts.failures else "31")
