"""Descriptions for tests: two that together set every field, and a strategy for random valid ones."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

from gestalt.spec.values import CAPABILITIES, ULIMITS

Document = dict[str, Any]
Place = tuple[str | int, ...]

# Every field of the schema has a value that is not its default somewhere in here, written as people write it.
FULL: Document = {
    "path": "/acme/shop/production/web",
    "kind": "service",
    "runtime": "docker",
    "image": "registry.acme.example:5000/shop/web:2.4.1",
    "command": ["/app/web"],
    "args": ["--workers", "4"],
    "env": {"LOG_LEVEL": "info"},
    "labels": {"acme.example/team": "storefront"},
    "workdir": "/srv",
    "instances": 1,
    "resources": {"cpu": "250m", "memory": "256MiB", "disk": "1G", "pids": 200, "devices": {"gpu": 1}},
    "ports": [
        {
            "name": "web",
            "container_port": 8080,
            "protocol": "tcp",
            "host_port": 0,
            "http": {"hosts": ["shop.acme.example", "*.shop.acme.example"], "path_prefix": "/shop"},
        },
        {"name": "feed", "container_port": 9000, "tcp": {"port": 9000}},
        {"name": "stats", "container_port": 8125, "protocol": "udp", "host_port": 8125},
    ],
    "volumes": [{"name": "cache", "target": "/var/cache/web"}, {"host_path": "/etc/ssl", "target": "/etc/ssl", "read_only": True}],
    "checks": [
        {
            "name": "up",
            "kind": "https",
            "purpose": "liveness",
            "port": "web",
            "path": "/healthz?full=1",
            "method": "POST",
            "headers": {"Host": "shop.acme.example"},
            "expect_status": [200, 204],
            "expect_body": "^ok$",
            "verify_tls": True,
            "grace": "20s",
            "interval": "2s",
            "timeout": "1s",
            "failures": 5,
            "successes": 2,
        },
        {"kind": "grpc", "port": "feed", "service": "shop.Feed"},
        {"kind": "exec", "command": ["/app/probe", "--fast"]},
        {"kind": "docker", "purpose": "readiness"},
    ],
    "restart": {"policy": "on-failure", "backoff": "500ms", "backoff_max": "30s", "crash_loop": 3, "window": "1m"},
    "stop": {"signal": "SIGQUIT", "grace": "15s", "drain": "10s"},
    "security": {"user": "1000:1000", "capabilities": ["CHOWN"], "read_only_root": True, "no_new_privileges": False},
    "ulimits": {"nofile": {"soft": 8192, "hard": 16384}},
    "logging": {"driver": "none", "max_size": "20MiB", "max_files": 5},
    "placement": {
        "constraints": [{"attribute": "os.name", "operator": "!=", "value": "rhel"}],
        "affinities": [{"attribute": "rack", "operator": "in", "value": "a,b", "weight": -20}],
        "spread": [{"attribute": "rack", "targets": {"a": 50, "b": 50}, "weight": 80}],
        "apart_from": ["/acme/shop/production/rival"],
        "beside": [{"apps": "team=shop,tier=db", "weight": -60}],
        "strategy": "binpack",
        "pool": "web",
        "priority": 70,
        "preempt": True,
        "exclusive": True,
        "on_isolation": "stop",
        "failover_after": "2m",
    },
    "update": {
        "strategy": "blue_green",
        "max_surge": "25%",
        "max_unavailable": 1,
        "min_healthy_time": "5s",
        "health_deadline": "1m",
        "progress_deadline": "10m",
        "auto_rollback": False,
        "canary": "10%",
        "promote": "auto",
        "promote_after": "10m",
    },
    "depends_on": ["/acme/shop/production/db"],
    "pull": {"policy": "always", "credentials": "acme"},
    "autoscale": {
        "min": 1,
        "max": 1,
        "metrics": [{"kind": "queue", "target": 70}, {"kind": "requests", "target": 12.5}],
        "window": "30s",
        "cool_down_up": "10s",
        "cool_down_down": "10m",
        "max_step": 3,
        "dry_run": True,
    },
}

# The section that FULL cannot have.
BATCH: Document = {
    "path": "/acme/shop/production/report",
    "image": "report:7",
    "kind": "job",
    "job": {
        "completions": 3,
        "parallelism": 1,
        "retries": 5,
        "deadline": "1h",
        "parameters": {"DAY": {"required": False, "default": "today"}},
        "schedule": {"cron": "0 3 * * mon-fri", "timezone": "Europe/Berlin", "overlap": "allow", "missed": "skip"},
        "keep": {"runs": 20, "time": "7d"},
    },
}

SMALL: Document = {"path": "/a/b/c/d", "image": "web:1"}


def places(value: Any, place: Place = ()) -> list[Place]:
    """Return every place in a document, sections and lists included, without the document itself."""
    found: list[Place] = [place] if place else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += places(item, (*place, key))
    return found


def changed(document: Document, place: Place, value: Any) -> Document:
    """Return a copy with another value at a place."""
    result = copy.deepcopy(document)
    inner: Any = result
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    return result


def without(document: Document, place: Place) -> Document:
    """Return a copy without what is at a place."""
    result = copy.deepcopy(document)
    inner: Any = result
    for step in place[:-1]:
        inner = inner[step]
    del inner[place[-1]]
    return result


_text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
_word = st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True)
_seconds = st.integers(1, 600).flatmap(lambda number: st.sampled_from([number, f"{number}s", f"{number * 1000}ms", number + 0.5]))
_sizes = st.integers(6, 2**20).flatmap(lambda number: st.sampled_from([number * 2**20, f"{number}MiB", f"{number}Mi"]))


_apps = st.sampled_from(["/acme/shop/production/db", "tier=db", "team=shop,tier=db", "noisy = yes"])


def _some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Document]:
    return st.fixed_dictionaries({}, optional=fields)


_PLACEMENT = _some(
    priority=st.integers(0, 100),
    strategy=st.sampled_from(["", "spread", "binpack"]),
    failover_after=_seconds,
    apart_from=st.lists(_apps, max_size=3, unique=True),
    beside=st.lists(
        st.fixed_dictionaries({"apps": _apps}, optional={"weight": st.integers(-100, 100)}),
        max_size=3,
        unique_by=lambda item: item["apps"],
    ),
)


def _check(ports: list[str]) -> st.SearchStrategy[Document]:
    timing = {"grace": st.integers(0, 50), "interval": st.integers(5, 60), "timeout": st.integers(1, 5), "failures": st.integers(1, 9)}
    purpose = {"purpose": st.sampled_from(["liveness", "readiness", "both"]), "successes": st.integers(1, 3)}
    http = {
        "path": st.from_regex(r"/[a-z]{0,8}(\?x=[0-9])?", fullmatch=True),
        "method": st.sampled_from(["GET", "POST"]),
        "headers": st.dictionaries(_word, st.from_regex(r"[ -~]{0,10}", fullmatch=True), max_size=2),
        "expect_status": st.lists(st.integers(200, 599), max_size=3),
        "expect_body": st.sampled_from(["", "ok", "^[a-z]+$"]),
    }
    port = {"port": st.sampled_from(["", *ports])}
    command = st.lists(_text, max_size=2).map(lambda rest: ["/probe", *rest])
    kinds = [
        st.fixed_dictionaries({"kind": st.just("exec"), "command": command}, optional={**timing, **purpose}),
        st.fixed_dictionaries({"kind": st.just("docker")}, optional={**timing, **purpose}),
    ]
    if ports:
        kinds.append(st.fixed_dictionaries({"kind": st.sampled_from(["http", "https"])}, optional={**timing, **purpose, **http, **port}))
        kinds.append(st.fixed_dictionaries({"kind": st.sampled_from(["tcp", "grpc"])}, optional={**timing, **purpose, **port}))
    return st.one_of(kinds)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Draw a valid description as a person might write it."""
    names = draw(st.lists(_word, max_size=3, unique=True))
    ports = [
        draw(
            st.fixed_dictionaries(
                {"name": st.just(name)}, optional={"container_port": st.integers(1, 65535), "host_port": st.just(9000 + index)}
            )
        )
        for index, name in enumerate(names)
    ]
    for index, port in enumerate(ports):
        service = draw(st.sampled_from(["", "http", "tcp"]))
        if service == "http":
            port["http"] = {"hosts": [f"{draw(_word)}.example"], "path_prefix": f"/{index}"}
        elif service == "tcp":
            port["tcp"] = {"port": 10_000 + index}
    targets = draw(st.lists(_word, max_size=3, unique=True))
    volumes = [
        {draw(st.sampled_from(["name"])): target, "target": f"/mnt/{target}", "read_only": draw(st.booleans())} for target in targets
    ]
    free = st.from_regex(r"X_[A-Z0-9_]{0,6}", fullmatch=True)
    limit = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)).map(lambda pair: {"soft": min(pair), "hard": max(pair)})
    document: Document = {
        "path": "/" + "/".join(draw(st.lists(_word, min_size=4, max_size=4))),
        "image": draw(st.sampled_from(["web", "web:1", "localhost:5000/team/web@sha256:" + "0" * 64])),
        "ports": ports,
        "volumes": volumes,
        "checks": draw(st.lists(_check(names), max_size=4)),
    }
    more = _some(
        command=st.lists(_text, max_size=2).map(lambda rest: ["/bin/web", *rest]),
        args=st.lists(st.one_of(_text, st.integers(), st.booleans()), max_size=3),
        env=st.dictionaries(free, st.one_of(_text, st.integers(), st.booleans()), max_size=3),
        labels=st.dictionaries(_word.map(lambda word: f"x-{word}"), _text, max_size=2),
        instances=st.integers(0, 100_000),
        resources=_some(cpu=st.sampled_from([1, 0.25, "250m"]), memory=_sizes, disk=_sizes, pids=st.integers(0, 4_194_304)),
        restart=_some(policy=st.sampled_from(["always", "on-failure", "never"]), backoff_max=_seconds, crash_loop=st.integers(0, 1000)),
        stop=_some(signal=st.sampled_from(["TERM", "SIGINT", "sigusr1"]), grace=_seconds, drain=_seconds),
        security=_some(
            user=st.sampled_from(["", "web", "0", 1000, "1:2"]),
            capabilities=st.lists(
                st.sampled_from([*CAPABILITIES, "CAP_CHOWN"]), max_size=3, unique_by=lambda name: name.removeprefix("CAP_")
            ),
            read_only_root=st.booleans(),
        ),
        ulimits=st.dictionaries(st.sampled_from(ULIMITS), limit, max_size=2),
        logging=_some(driver=st.sampled_from(["json-file", "none"]), max_size=_sizes, max_files=st.integers(1, 1000)),
        update=_some(max_surge=st.sampled_from([1, "2", "30%"]), min_healthy_time=st.integers(0, 200), auto_rollback=st.booleans()),
        placement=_PLACEMENT,
        pull=_some(policy=st.sampled_from(["missing", "always", "never"])),
    )
    return {**document, **draw(more)}
