"""Rules over several fields of one section."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gestalt.units import show_duration

from .conditions import bounds_of
from .mistakes import Mistake, Place, show_value
from .part import Rule, rule
from .values import expression_fault

if TYPE_CHECKING:
    from .schema import Affinity, Check, Constraint, HttpService, Port, Restart, Security, Spread, Ulimit, Update, Volume

_SET_BY_US = frozenset({"connection", "content-length", "transfer-encoding"})

_OF_HTTP = ("path", "method", "headers", "expect_status", "expect_body")
_KIND_FIELDS = {
    "http": ("port", *_OF_HTTP),
    "https": ("port", *_OF_HTTP, "verify_tls"),
    "tcp": ("port",),
    "grpc": ("port", "service"),
    "exec": ("command",),
    "docker": (),
}
_COUNTING = ("max-per", "group-by")
_MOST = 100_000
_SPECIAL = tuple(dict.fromkeys(name for names in _KIND_FIELDS.values() for name in names))


def twice(items: Sequence[object], place: Place = ()) -> Iterable[Mistake]:
    """Yield a mistake for each item that stands in the list before."""
    first: dict[object, int] = {}
    for index, item in enumerate(items):
        if item in first:
            yield Mistake((*place, index), f"is {show_value(item)}, as item {first[item]} is already", "each of them once")
        first.setdefault(item, index)


@rule("hosts")
def hosts_differ(service: HttpService) -> Iterable[Mistake]:
    yield from twice(service.hosts, ("hosts",))


@rule("protocol", "http", "tcp")
def udp_has_no_service(port: Port) -> Iterable[Mistake]:
    for name in ("http", "tcp"):
        if port.protocol == "udp" and getattr(port, name) is not None:
            yield Mistake((name,), "cannot be served on a udp port", "no service: the load balancer serves tcp ports only")


@rule("name", "host_path")
def volume_has_one_source(volume: Volume) -> Iterable[Mistake]:
    if volume.name and volume.host_path:
        yield Mistake(("host_path",), "stands beside a name", "either name or host_path")
    if not volume.name and not volume.host_path:
        yield Mistake(("name",), "is missing, and host_path as well", "either name or host_path")


@rule("kind", *_SPECIAL)
def fields_fit_kind(check: Check) -> Iterable[Mistake]:
    for name in _SPECIAL:
        unset = type(check).model_fields[name].default
        if name not in _KIND_FIELDS[check.kind] and getattr(check, name) != unset:
            fitting = ", ".join(kind for kind, names in _KIND_FIELDS.items() if name in names)
            yield Mistake((name,), f"means nothing in a check of kind {check.kind}", f"leave it out; it belongs to {fitting}")


@rule("kind", "command")
def exec_has_command(check: Check) -> Iterable[Mistake]:
    if check.kind == "exec" and not (check.command and check.command[0]):
        yield Mistake(("command",), "is missing" if not check.command else "begins with empty text", 'a list: ["/bin/check", "--fast"]')


@rule("method", "expect_body")
def head_has_no_body(check: Check) -> Iterable[Mistake]:
    if check.method == "HEAD" and check.expect_body:
        yield Mistake(("expect_body",), "can match nothing: answers to HEAD have no body", "leave it out, or another method")


@rule("headers")
def headers_are_free(check: Check) -> Iterable[Mistake]:
    for name in check.headers:
        if name.lower() in _SET_BY_US:
            yield Mistake(("headers", name), "is set by the check itself", "other headers")


@rule("interval", "timeout")
def timeout_within_interval(check: Check) -> Iterable[Mistake]:
    if check.timeout > check.interval:
        yield Mistake(("timeout",), f"is {show_duration(check.timeout)}", f"at most the interval, {show_duration(check.interval)}")


CHECK: tuple[Rule, ...] = (fields_fit_kind, exec_has_command, head_has_no_body, headers_are_free, timeout_within_interval)


@rule("backoff", "backoff_max")
def backoff_grows(restart: Restart) -> Iterable[Mistake]:
    if restart.backoff > restart.backoff_max:
        yield Mistake(("backoff",), f"is {show_duration(restart.backoff)}", f"at most backoff_max, {show_duration(restart.backoff_max)}")


@rule("capabilities")
def capabilities_differ(security: Security) -> Iterable[Mistake]:
    yield from twice(security.capabilities, ("capabilities",))


@rule("soft", "hard")
def soft_within_hard(ulimit: Ulimit) -> Iterable[Mistake]:
    if ulimit.hard >= 0 and not 0 <= ulimit.soft <= ulimit.hard:
        yield Mistake(("soft",), f"is {ulimit.soft}", f"at most hard, {ulimit.hard}")


@rule("operator", "value")
def value_fits_operator(item: Constraint | Affinity) -> Iterable[Mistake]:
    lonely = item.operator in ("exists", "missing", "unique", "cluster")
    if lonely and item.value:
        yield Mistake(("value",), f"is {show_value(item.value)}", f"nothing: {item.operator} compares with nothing")
    if not (lonely or item.value or item.operator in _COUNTING):
        yield Mistake(("value",), "is empty", f"what {item.operator} compares with")
    if item.value and (allowed := _malformed(item.operator, item.value)):
        yield Mistake(("value",), f"is {show_value(item.value)}", allowed)


def _malformed(operator: str, value: str) -> str:
    """Return what is allowed as the value of an operator, if this is not; empty when it is."""
    if operator in ("matches", "not-matches") and (fault := expression_fault(value)):
        return f"a regular expression, which this is not: {fault}"
    if operator == "version":
        try:
            bounds_of(value)
        except ValueError as error:
            return f'comparisons with commas between, like ">= 20.10, < 27": {error}'
    counts = value.isascii() and value.isdigit() and len(value) <= len(str(_MOST)) and 1 <= int(value) <= _MOST
    return f"a whole number from 1 to {_MOST}" if operator in _COUNTING and not counts else ""


@rule("targets")
def percentages_fit(spread: Spread) -> Iterable[Mistake]:
    total = sum(spread.targets.values())
    if total > 100:
        yield Mistake(("targets",), f"come to {total} percent", "at most 100 altogether")


@rule("max_surge", "max_unavailable")
def update_can_move(update: Update) -> Iterable[Mistake]:
    if not any(int(share.rstrip("%")) for share in (update.max_surge, update.max_unavailable)):
        yield Mistake(("max_surge",), "is 0, as max_unavailable is: no instance could ever be replaced", "one of both above 0")


@rule("progress_deadline", "min_healthy_time")
def deadline_leaves_time(update: Update) -> Iterable[Mistake]:
    if update.min_healthy_time >= update.progress_deadline:
        limit = show_duration(update.progress_deadline)
        yield Mistake(("min_healthy_time",), f"is {show_duration(update.min_healthy_time)}", f"less than progress_deadline, {limit}")


@rule("health_deadline", "progress_deadline")
def progress_outlasts_health(update: Update) -> Iterable[Mistake]:
    if update.progress_deadline < update.health_deadline:
        limit = show_duration(update.health_deadline)
        yield Mistake(("progress_deadline",), f"is {show_duration(update.progress_deadline)}", f"at least health_deadline, {limit}")


@rule("strategy", "canary")
def a_canary_is_one_at_least(update: Update) -> Iterable[Mistake]:
    if update.strategy == "canary" and not int(update.canary.rstrip("%")):
        yield Mistake(("canary",), f"is {update.canary}: nothing would try the new version", "a count from 1, or a percentage from 1%")


UPDATE: tuple[Rule, ...] = (update_can_move, deadline_leaves_time, progress_outlasts_health, a_canary_is_one_at_least)
