"""Rules over several fields, what is filled in, and what is told about a valid description."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gestalt.errors import GestaltError
from gestalt.spec.load import unhonoured, validate_spec, warnings
from gestalt.spec.part import STORED
from gestalt.spec.schema import AppSpec, Check, Placement, Port

from .specs import SMALL, Document

PROCESS: Document = {"path": "/a/b/c/d", "command": ["/bin/app"]}
WEB = {"name": "web", "container_port": 80}
JOB: Document = {"path": "/a/b/c/d", "image": "web:1", "kind": "job"}
SYSTEM: Document = {"path": "/a/b/c/d", "image": "web:1", "kind": "system"}


def fields(document: Document) -> set[str]:
    """Return the fields that are wrong."""
    try:
        validate_spec(document)
    except GestaltError as error:
        return {detail.field for detail in error.details}
    return set()


def constrained(constraint: Document) -> Document:
    return {**SMALL, "placement": {"constraints": [constraint]}}


RULES: list[tuple[str, Document, str]] = [
    ("docker needs an image", {"path": "/a/b/c/d"}, "image"),
    ("docker needs an image, command or not", {"path": "/a/b/c/d", "runtime": "docker", "command": ["x"]}, "image"),
    ("a process has no image", {**SMALL, "runtime": "process", "command": ["x"]}, "image"),
    ("nodes say how many of a system app run", {**SYSTEM, "instances": 3}, "instances"),
    ("a job has no instances but those of its runs", {**JOB, "instances": 2}, "instances"),
    ("only jobs have runs", {**SMALL, "job": {"retries": 1}}, "job"),
    ("what ended is not started again", {**JOB, "restart": {"policy": "on-failure"}}, "restart.policy"),
    ("an exclusive job runs alone", {**JOB, "placement": {"exclusive": True}, "job": {"parallelism": 2}}, "job.parallelism"),
    ("a parameter is ours", {**JOB, "job": {"parameters": {"GESTALT_X": {}}}}, "job.parameters.GESTALT_X"),
    ("a parameter tells a port", {**JOB, "ports": [WEB], "job": {"parameters": {"PORT_WEB": {}}}}, "job.parameters.PORT_WEB"),
    ("a parameter stands in env", {**JOB, "env": {"X": "1"}, "job": {"parameters": {"X": {}}}}, "job.parameters.X"),
    ("required or a default", {**JOB, "job": {"parameters": {"X": {"required": True, "default": "y"}}}}, "job.parameters.X.default"),
    ("four fields are no schedule", {**JOB, "job": {"schedule": {"cron": "0 3 * *"}}}, "job.schedule.cron"),
    ("there is no 61st minute", {**JOB, "job": {"schedule": {"cron": "61 3 * * *"}}}, "job.schedule.cron"),
    ("there is no eighth weekday", {**JOB, "job": {"schedule": {"cron": "0 3 * * 8"}}}, "job.schedule.cron"),
    ("there is no 30th of February", {**JOB, "job": {"schedule": {"cron": "0 3 30 2 *"}}}, "job.schedule.cron"),
    ("both kinds of days mean two things", {**JOB, "job": {"schedule": {"cron": "0 3 13 * fri"}}}, "job.schedule.cron"),
    ("there is no such zone", {**JOB, "job": {"schedule": {"cron": "0 3 * * *", "timezone": "Europe/Gotham"}}}, "job.schedule.timezone"),
    (
        "nobody sets what a schedule needs",
        {**JOB, "job": {"schedule": {"cron": "0 3 * * *"}, "parameters": {"X": {"required": True}}}},
        "job.parameters.X.required",
    ),
    ("a system app is exclusive nowhere", {**SYSTEM, "placement": {"exclusive": True}}, "placement.exclusive"),
    (
        "a system app is not distributed",
        {**SYSTEM, "placement": {"constraints": [{"operator": "unique"}]}},
        "placement.constraints[0].operator",
    ),
    ("a system app is updated node by node", {**SYSTEM, "update": {"strategy": "recreate"}}, "update.strategy"),
    ("a node never has two of a system app", {**SYSTEM, "update": {"max_surge": 1}}, "update.max_surge"),
    ("a system app has to give way somewhere", {**SYSTEM, "update": {"max_unavailable": 0}}, "update.max_surge"),
    ("a process needs a command", {"path": "/a/b/c/d", "runtime": "process"}, "command"),
    ("a process pulls nothing", {**PROCESS, "pull": {"policy": "always"}}, "pull"),
    ("a process has no named volume", {**PROCESS, "volumes": [{"name": "x", "target": "/x"}]}, "volumes[0].name"),
    ("a process sees the node's files", {**PROCESS, "volumes": [{"host_path": "/y", "target": "/x"}]}, "volumes[0].host_path"),
    ("a process has no container port", {**PROCESS, "ports": [WEB]}, "ports[0].container_port"),
    ("a process has no HEALTHCHECK", {**PROCESS, "checks": [{"kind": "docker"}]}, "checks[0].kind"),
    ("PORT of a process is ours", {**PROCESS, "ports": [{"name": "web"}], "env": {"PORT": "1"}}, "env.PORT"),
    ("docker needs some memory", {**SMALL, "resources": {"memory": "1MiB"}}, "resources.memory"),
    ("one source a volume", {**SMALL, "volumes": [{"name": "x", "host_path": "/x", "target": "/x"}]}, "volumes[0].host_path"),
    ("a source for a volume", {**SMALL, "volumes": [{"target": "/x"}]}, "volumes[0].name"),
    ("targets differ", {**SMALL, "volumes": [{"name": "x", "target": "/x"}, {"name": "y", "target": "/x"}]}, "volumes[1].target"),
    ("port names differ", {**SMALL, "ports": [WEB, WEB]}, "ports[1].name"),
    ("host ports differ", {**SMALL, "ports": [{"name": "a", "host_port": 80}, {"name": "b", "host_port": 80}]}, "ports[1].host_port"),
    ("udp is not served", {**SMALL, "ports": [{**WEB, "protocol": "udp", "tcp": {"port": 1}}]}, "ports[0].tcp"),
    ("udp is not served over http", {**SMALL, "ports": [{**WEB, "protocol": "udp", "http": {}}]}, "ports[0].http"),
    (
        "tcp services differ",
        {**SMALL, "ports": [{"name": "a", "tcp": {"port": 1}}, {"name": "b", "tcp": {"port": 1}}]},
        "ports[1].tcp.port",
    ),
    ("http services differ", {**SMALL, "ports": [{"name": "a", "http": {}}, {"name": "b", "http": {}}]}, "ports[1].http"),
    (
        "http services differ, slash or not",
        {**SMALL, "ports": [{"name": "a", "http": {"path_prefix": "/x"}}, {"name": "b", "http": {"path_prefix": "/x/"}}]},
        "ports[1].http",
    ),
    ("host names differ", {**SMALL, "ports": [{**WEB, "http": {"hosts": ["a.b", "A.b"]}}]}, "ports[0].http.hosts[1]"),
    ("a check needs a port", {**SMALL, "checks": [{"kind": "http"}]}, "checks[0].port"),
    ("a check needs a tcp port", {**SMALL, "ports": [{**WEB, "protocol": "udp"}], "checks": [{"kind": "tcp"}]}, "checks[0].port"),
    ("a check asks a port that is there", {**SMALL, "ports": [WEB], "checks": [{"kind": "tcp", "port": "x"}]}, "checks[0].port"),
    (
        "a check asks no udp port",
        {**SMALL, "ports": [{**WEB, "protocol": "udp"}], "checks": [{"kind": "grpc", "port": "web"}]},
        "checks[0].port",
    ),
    ("check names differ", {**SMALL, "checks": [{"kind": "docker", "name": "x"}, {"kind": "docker", "name": "x"}]}, "checks[1].name"),
    ("exec needs a command", {**SMALL, "checks": [{"kind": "exec"}]}, "checks[0].command"),
    ("exec needs a program", {**SMALL, "checks": [{"kind": "exec", "command": [""]}]}, "checks[0].command"),
    ("tcp has no path", {**SMALL, "ports": [WEB], "checks": [{"kind": "tcp", "path": "/x"}]}, "checks[0].path"),
    ("http verifies nothing", {**SMALL, "ports": [WEB], "checks": [{"kind": "http", "verify_tls": True}]}, "checks[0].verify_tls"),
    ("docker asks no port", {**SMALL, "ports": [WEB], "checks": [{"kind": "docker", "port": "web"}]}, "checks[0].port"),
    (
        "HEAD has no body",
        {**SMALL, "ports": [WEB], "checks": [{"kind": "http", "method": "HEAD", "expect_body": "x"}]},
        "checks[0].expect_body",
    ),
    ("timeout within interval", {**SMALL, "checks": [{"kind": "docker", "interval": 1, "timeout": 2}]}, "checks[0].timeout"),
    ("deadline after grace", {**SMALL, "checks": [{"kind": "docker", "grace": "2m"}]}, "update.health_deadline"),
    ("back-off grows", {**SMALL, "restart": {"backoff": 5, "backoff_max": 4}}, "restart.backoff"),
    ("an update moves", {**SMALL, "update": {"max_surge": "0%"}}, "update.max_surge"),
    ("progress outlasts health", {**SMALL, "update": {"progress_deadline": 60}}, "update.progress_deadline"),
    ("the quiet time ends before the deadline", {**SMALL, "update": {"min_healthy_time": 300}}, "update.min_healthy_time"),
    ("soft within hard", {**SMALL, "ulimits": {"nofile": {"soft": 2, "hard": 1}}}, "ulimits.nofile.soft"),
    ("unlimited is not within a limit", {**SMALL, "ulimits": {"nofile": {"soft": -1, "hard": 1}}}, "ulimits.nofile.soft"),
    ("capabilities differ", {**SMALL, "security": {"capabilities": ["CHOWN", "CAP_CHOWN"]}}, "security.capabilities[1]"),
    ("a label is short", {**SMALL, "labels": {"team": "x" * 1025, "long": "x" * 1024}}, "labels.team"),
    ("not apart from itself", {**SMALL, "placement": {"apart_from": ["/a/b/c/d"]}}, "placement.apart_from[0]"),
    ("apart from others once", {**SMALL, "placement": {"apart_from": ["/a/b/c/e", "/a/b/c/e"]}}, "placement.apart_from[1]"),
    ("not its own dependency", {**SMALL, "depends_on": ["/a/b/c/d"]}, "depends_on[0]"),
    ("dependencies differ", {**SMALL, "depends_on": ["/a/b/c/e", "/a/b/c/e"]}, "depends_on[1]"),
    ("exists compares with nothing", constrained({"attribute": "a", "operator": "exists", "value": "1"}), "placement.constraints[0].value"),
    ("= compares with something", constrained({"attribute": "a"}), "placement.constraints[0].value"),
    ("matches takes an expression", constrained({"attribute": "a", "operator": "matches", "value": "("}), "placement.constraints[0].value"),
]


@pytest.mark.parametrize(("document", "field"), [(document, field) for _, document, field in RULES], ids=[name for name, _, _ in RULES])
def test_rule(document: Document, field: str) -> None:
    assert fields(document) == {field}


@pytest.mark.parametrize(
    "document",
    [
        {**PROCESS, "volumes": [{"host_path": "/x", "target": "/x"}], "ports": [{"name": "web"}], "checks": [{"kind": "http"}]},
        {**PROCESS, "ports": [{"name": "web", "host_port": 80, "container_port": 80}], "resources": {"memory": "1MiB"}},
        {**SMALL, "ports": [{"name": "a", "host_port": 53}, {"name": "b", "host_port": 53, "protocol": "udp"}]},
        {
            **SMALL,
            "ports": [{"name": "a", "http": {"hosts": ["a.b"]}}, {"name": "b", "http": {"hosts": ["b.b"]}}, {"name": "c", "http": {}}],
        },
        {**SMALL, "ports": [{**WEB, "http": {}, "tcp": {"port": 80}}]},
        {**SMALL, "env": {"PORT": "80"}, "ports": [WEB]},
    ],
)
def test_what_the_rules_leave_alone(document: Document) -> None:
    assert fields(document) == set()


def test_how_long_the_value_of_a_label_may_be_is_told() -> None:
    with pytest.raises(GestaltError) as told:
        validate_spec({**SMALL, "labels": {"team": "x" * 1025}})
    assert (told.value.details[0].problem, told.value.details[0].allowed) == (
        "has a value of 1025 characters",
        "at most 1024: more goes into env, or a file",
    )


def test_a_broken_section_brings_no_further_mistakes() -> None:
    """Ports that cannot be read say nothing about the checks that refer to them."""
    document = {**SMALL, "ports": [{"name": "web", "container_port": "x"}], "checks": [{"kind": "http", "port": "web"}]}
    assert fields(document) == {"ports[0].container_port"}


# -- what is filled in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("document", "runtime"), [(SMALL, "docker"), (PROCESS, "process"), ({**SMALL, "command": ["x"]}, "docker")])
def test_runtime_follows_from_the_rest(document: Document, runtime: str) -> None:
    assert validate_spec(document).runtime == runtime
    assert validate_spec({**document, "runtime": ""}).runtime == runtime


def test_checks_get_a_name_a_port_and_a_timeout() -> None:
    checks: list[Document] = [
        {"kind": "http"}, {"kind": "http", "name": "http-3"}, {"kind": "http", "port": "b"}, {"kind": "docker", "interval": "500ms"},
    ]  # fmt: skip
    ports = [{"name": "dns", "protocol": "udp"}, {"name": "a"}, {"name": "b"}]
    spec = validate_spec({**SMALL, "ports": ports, "checks": checks})
    seen = [(check.name, check.port, check.timeout) for check in spec.checks]
    assert seen == [("http-1", "a", 2.0), ("http-3", "a", 2.0), ("http-4", "b", 2.0), ("docker-4", "", 0.5)]


def test_sections_may_be_given_as_values() -> None:
    spec = AppSpec(path="/a/b/c/d", image="web", ports=(Port(name="web"),), checks=(Check(kind="tcp"),), env={"A": 1, "B": True})  # type: ignore[dict-item]
    assert (spec.checks[0].name, spec.checks[0].port, spec.env) == ("tcp-1", "web", {"A": "1", "B": "true"})
    assert AppSpec.model_validate(spec) is spec


# -- what is told of a valid description -----------------------------------------------------------------------------


def test_every_field_of_placement_is_acted_on() -> None:
    honoured: dict[str, Any] = {
        "constraints": [{"attribute": "a", "value": "b"}], "affinities": [{"attribute": "a", "value": "b"}], "spread": [{"attribute": "a"}],
        "strategy": "binpack", "pool": "x", "apart_from": ["/a/b/c/e"], "exclusive": True, "failover_after": 1, "on_isolation": "stop",
        "beside": [{"apps": "a=b"}],
        "priority": 60, "preempt": True,
    }  # fmt: skip
    assert set(honoured) == set(Placement.model_fields)
    assert unhonoured(validate_spec({**SMALL, "placement": honoured})) == ()


@pytest.mark.parametrize(
    ("fields", "sentences"),
    [
        ({"placement": {"preempt": True}}, []),
        ({"placement": {"preempt": True, "priority": 10}}, []),
        ({"placement": {"preempt": True, "priority": 9}}, ["placement.preempt is not used: no priority is lower than 9 by 10"]),
        ({"placement": {"priority": 9}}, []),
        ({"placement": {"preempt": True}, "kind": "system"}, ["placement.preempt is not used: room is made for services only"]),
        ({"placement": {"preempt": True}, "kind": "job"}, ["placement.preempt is not used: room is made for services only"]),
    ],
)
def test_who_cannot_make_room_is_told(fields: dict[str, Any], sentences: list[str]) -> None:
    assert [item for item in warnings(validate_spec({**SMALL, **fields})) if "preempt" in item] == sentences


def test_what_is_exclusive_exists_once() -> None:
    exclusive = {**SMALL, "placement": {"exclusive": True}}
    assert validate_spec({**exclusive, "instances": 0}).instances == 0
    with pytest.raises(GestaltError) as caught:
        validate_spec({**exclusive, "instances": 2})
    (detail,) = caught.value.details
    assert (detail.field, detail.problem) == ("instances", "is 2, but the app is exclusive")


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ({"resources": {"disk": "1G"}}, "resources.disk"),
    ],
)
def test_what_is_not_honoured_is_named(section: Document, word: str) -> None:
    (sentence,) = unhonoured(validate_spec({**SMALL, **section}))
    assert sentence.startswith(word)


def test_read_only_volumes_of_processes_are_named() -> None:
    volumes = [{"host_path": "/x", "target": "/x", "read_only": True}]
    assert "volumes[0].read_only" in unhonoured(validate_spec({**PROCESS, "volumes": volumes}))[0]
    assert unhonoured(validate_spec({**PROCESS, "volumes": volumes, "security": {"read_only_root": True}})) == ()


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"instances": 3, "ports": [{"name": "a", "host_port": 80}], "checks": [{"kind": "docker"}]}, ["fixed host port 80"]),
        ({"ports": [{"name": "a", "host_port": 80}], "update": {"max_surge": 2}, "checks": [{"kind": "docker"}]}, ["not used"]),
        ({"update": {"strategy": "recreate"}}, []),
        ({"update": {"strategy": "recreate", "max_surge": 2}}, ["not used by the strategy recreate"]),
        ({"update": {"strategy": "blue_green"}, "placement": {"exclusive": True}}, ["blue_green is not used"]),
        ({"ports": [WEB]}, ["no checks"]),
        ({"ports": [WEB], "checks": [{"kind": "tcp"}]}, ["only connect"]),
        ({"image": "localhost:5000/web"}, ["no tag"]),
        ({"image": "web@sha256:" + "0" * 64}, []),
        ({"ports": [WEB], "checks": [{"kind": "tcp"}, {"kind": "http"}]}, []),
    ],
)
def test_doubts(section: Document, words: list[str]) -> None:
    found = warnings(validate_spec({**SMALL, **section}))
    assert len(found) == len(words), found
    assert all(word in sentence for word, sentence in zip(words, found, strict=True))


def test_what_was_stored_is_read_although_a_rule_came_since() -> None:
    stored = {**validate_spec(SMALL).model_dump(), "ports": [{"name": "twice"}, {"name": "twice"}]}
    with pytest.raises(ValidationError):
        AppSpec.model_validate(stored)
    assert len(AppSpec.model_validate(stored, context=STORED).ports) == 2
    with pytest.raises(ValidationError):
        AppSpec.model_validate({**stored, "instances": "many"}, context=STORED)


def test_a_system_app_says_on_how_many_nodes_it_is_updated_at_once() -> None:
    plain, several = validate_spec(SYSTEM), validate_spec({**SYSTEM, "update": {"max_unavailable": "20%"}})
    assert (plain.instances, plain.update.max_surge, plain.update.max_unavailable) == (0, "0", "1")
    assert (several.update.max_surge, several.update.max_unavailable) == ("0", "20%")
    assert validate_spec(plain.model_dump(mode="json")) == plain
    assert warnings(validate_spec({**SYSTEM, "placement": {"strategy": "binpack"}}))


def test_a_job_has_a_section_of_its_own_and_never_restarts_in_place() -> None:
    plain = validate_spec(JOB)
    assert plain.job is not None
    assert (plain.instances, plain.restart.policy, plain.job.completions, plain.job.retries, plain.job.keep.runs) == (0, "never", 1, 3, 10)
    assert validate_spec(plain.model_dump(mode="json")) == plain
    assert validate_spec(SMALL).job is None
    assert any("of update only health_deadline" in text for text in warnings(validate_spec({**JOB, "update": {"max_surge": 2}})))
