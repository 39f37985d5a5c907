"""The types of single values: what each accepts, in code, in words and as JSON Schema."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from gestalt.units import CPU_ALLOWED, DURATION_ALLOWED, SIZE_ALLOWED, parse_cpu, parse_duration, parse_size, show_duration, show_size

from .mistakes import show_value, wrong
from .selection import is_path, labels_in

TEXT_MAX = 32 * 1024
INT64_MAX = 2**63 - 1
SIZE_MAX = 2**50

JsonSchema = dict[str, Any]
_SEGMENT = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


@dataclass(frozen=True, slots=True)
class Words:
    """Text that fulfils a pattern as a whole."""

    pattern: str
    allowed: str
    longest: int = 255
    optional: bool = False

    def check(self, value: str) -> str:
        if not value and self.optional:
            return value
        if len(value) > self.longest:
            raise wrong(f"has {len(value)} characters", f"at most {self.longest}: {self.allowed}")
        if re.fullmatch(self.pattern, value, re.ASCII) is None:
            raise wrong(f"is {show_value(value)}" if value else "is empty", self.allowed)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        # ECMA expressions know neither \Z nor ASCII mode; \d and \w mean ASCII there anyway
        pattern = f"^(?:{self.pattern})?$" if self.optional else f"^(?:{self.pattern})$"
        return {**handler(schema), "pattern": pattern, "maxLength": self.longest}


@dataclass(frozen=True, slots=True)
class Tested:
    """A value that a function accepts, or turns into the form that we keep; it raises what `wrong` returns."""

    function: Callable[[Any], Any]
    allowed: str
    json: JsonSchema = field(default_factory=dict)
    before: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        if self.before:
            return core_schema.no_info_before_validator_function(self.function, handler(source))
        return core_schema.no_info_after_validator_function(self.function, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return self.json or handler(schema)

    def __hash__(self) -> int:
        return hash((self.function, self.allowed))


@dataclass(frozen=True, slots=True)
class Unit:
    """A quantity: a number, or a number with a unit, within bounds."""

    parse: Callable[[object], float]
    units: str
    show: Callable[[Any], str]
    pattern: str
    least: float
    most: float

    @property
    def allowed(self) -> str:
        return f"{self.units}; from {self.show(self.least)} to {self.show(self.most)}"

    def check(self, value: object) -> float:
        try:
            number = self.parse(value)
        except (ValueError, OverflowError):
            raise wrong("has no value" if value is None else f"is {show_value(value)}", self.allowed) from None
        if not self.least <= number <= self.most:
            raise wrong(f"is {show_value(value)}", self.allowed)
        return number

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        number = {"type": handler(schema)["type"], "minimum": self.least, "maximum": self.most}
        return {"anyOf": [number, {"type": "string", "pattern": self.pattern}]}


def show_cores(cores: float) -> str:
    return f"{cores:g} cores"


def parse_number(value: object) -> float:
    """Return a number, also one that is written as text.

    Raises:
        ValueError: it is none.
    """
    return float(value if isinstance(value, int | float | str) and not isinstance(value, bool) else "is not a number")


def show_number(number: float) -> str:
    return f"{number:,.10g}"


_DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$|^[0-9]+(\.[0-9]+)?$"
_SIZE = r"^[0-9]+(\.[0-9]+)?\s*([KMGTkmgt][Ii]?)?[Bb]?$"


def duration(least: float, most: float = 365 * 86400.0) -> Unit:
    return Unit(parse_duration, DURATION_ALLOWED, show_duration, _DURATION, least, most)


def size(least: int = 0, most: int = SIZE_MAX) -> Unit:
    return Unit(parse_size, SIZE_ALLOWED, show_size, _SIZE, least, most)


def _printable(value: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
        raise wrong(f"is {show_value(value)}", "text without control characters")
    return value


def _text(value: str) -> str:
    if "\0" in value:
        raise wrong("has a NUL character in it", "text without NUL")
    if len(value) > TEXT_MAX:
        raise wrong(f"has {len(value)} characters", f"text of at most {TEXT_MAX} characters")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise wrong("is not valid Unicode", "text") from None
    return value


def _as_text(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _path(value: str) -> str:
    clean = value.startswith("/") and (value == "/" or all(step not in ("", ".", "..") for step in value[1:].split("/")))
    if not clean:
        raise wrong(f"is {show_value(value)}" if value else "is empty", ABSOLUTE)
    return _printable(_text(value))


def _optional_path(value: str) -> str:
    return _path(value) if value else value


def _folder(value: str) -> str:
    if value == "/":
        raise wrong("is '/'", f"{ABSOLUTE}, other than / itself")
    return _path(value)


def _app_path(value: str) -> str:
    if re.fullmatch(_APP_PATH, value, re.ASCII) is None:
        raise wrong(f"is {show_value(value)}" if value else "is empty", APP_PATH_ALLOWED)
    return value


def _apps(value: str) -> str:
    if is_path(value):
        return _app_path(value)
    found = sorted(set(labels_in(value)))
    if len({name for name, _ in found}) < len(found):
        raise wrong(f"asks for two values of one label: {show_value(value)}", APPS_ALLOWED)
    for name, wanted in found:
        if re.fullmatch(_LABEL_NAME, name, re.ASCII) is None or len(name) > _LABEL_LENGTH or not wanted or not wanted.isprintable():
            raise wrong(f"is {show_value(value)}" if value else "is empty", APPS_ALLOWED)
    return ",".join(f"{name}={wanted}" for name, wanted in found)


def _signal(value: str) -> str:
    name = value.upper()
    name = name if name.startswith("SIG") else f"SIG{name}"
    if name not in signal.Signals.__members__:
        raise wrong(f"is {show_value(value)}", SIGNAL_ALLOWED)
    return name


def _capability(value: str) -> str:
    name = value.upper().removeprefix("CAP_")
    if name not in CAPABILITIES:
        raise wrong(f"is {show_value(value)}", f"a capability of Linux, with or without CAP_: {', '.join(CAPABILITIES)}")
    return name


def _share(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or re.fullmatch(r"[0-9]{1,5}|(?:[0-9]{1,2}|100)%", value, re.ASCII) is None:
        raise wrong("has no value" if value is None else f"is {show_value(value)}", SHARE_ALLOWED)
    return value


def _expression(value: str) -> str:
    if len(value) > EXPRESSION_MAX:
        raise wrong(f"has {len(value)} characters", f"at most {EXPRESSION_MAX}: {EXPRESSION_ALLOWED}")
    if value and (problem := expression_fault(value)):
        raise wrong(f"is {show_value(value)}: {problem}", EXPRESSION_ALLOWED)
    return value


@cache
def expression_fault(expression: str) -> str:
    """Return what is wrong with a regular expression, empty = nothing."""
    import regex  # late: few descriptions have an expression, and the command line starts sooner without

    try:
        regex.compile(expression)
    except (regex.error, ValueError, RecursionError, OverflowError) as error:
        return str(error) or type(error).__name__
    return ""


CAPABILITIES = (
    "AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN", "DAC_OVERRIDE",
    "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE",
    "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID",
    "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT", "SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "SYSLOG", "WAKE_ALARM",
)  # fmt: skip
ULIMITS = (
    "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending",
    "stack",
)  # fmt: skip

_APP_PATH = rf"/{_SEGMENT}/{_SEGMENT}/{_SEGMENT}/[a-z0-9](?:[a-z0-9-]{{0,38}}[a-z0-9])?"
APPS_ALLOWED = "the path of an app, or labels that apps have: name=value, several with commas between"
_LABEL_NAME, _LABEL_LENGTH = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?", 128
APP_PATH_ALLOWED = "/org/workspace/environment/app, each of a-z, 0-9 and inner dashes, at most 63 characters and the app at most 40"
ABSOLUTE = "an absolute path without '.', '..', '//' and a slash at its end"
SIGNAL_ALLOWED = "the name of a signal, with or without SIG: SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1 …"
SHARE_ALLOWED = 'a count (1) or a percentage of the instances ("25%")'
EXPRESSION_ALLOWED = "a regular expression"
EXPRESSION_MAX = 500

_NAME_COMPONENT = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_REGISTRY = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_IMAGE = (
    rf"(?:{_REGISTRY}/)?{_NAME_COMPONENT}(?:/{_NAME_COMPONENT})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(?:@[a-z0-9]+:[0-9a-f]{{32,128}})?"
)
_ACCOUNT = r"(?:[A-Za-z_][A-Za-z0-9_-]{0,31}|[0-9]{1,10})"

Text = Annotated[str, Tested(_text, "text")]
Argument = Annotated[str, Tested(_text, "text"), Tested(_as_text, "text", {"type": ["string", "number", "boolean"]}, before=True)]
EnvName = Annotated[str, Words(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and _ that does not begin with a digit")]
LabelName = Annotated[str, Words(_LABEL_NAME, "a name of letters, digits and . _ / - within", _LABEL_LENGTH)]
AppPath = Annotated[str, Tested(_app_path, APP_PATH_ALLOWED, {"type": "string", "pattern": f"^{_APP_PATH}$"})]
Apps = Annotated[str, Tested(_apps, APPS_ALLOWED, {"type": "string", "pattern": f"^{_APP_PATH}$|^[^/=,][^=,]*=[^,]+(,[^=,]+=[^,]+)*$"})]
Image = Annotated[str, Words(_IMAGE, "a reference like nginx:1.27 or registry.example.org:5000/team/app@sha256:…", 512, optional=True)]
Path = Annotated[str, Tested(_optional_path, ABSOLUTE)]
Folder = Annotated[str, Tested(_folder, f"{ABSOLUTE}, other than / itself")]
PortName = Annotated[str, Words(r"[a-z](?:[a-z0-9-]*[a-z0-9])?", "a-z, 0-9 and inner dashes, beginning with a letter", 15)]
PortReference = Annotated[str, Words(r"[a-z](?:[a-z0-9-]*[a-z0-9])?", "the name of one of the app's ports", 15, optional=True)]
CheckName = Annotated[str, Words(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", "a-z, 0-9 and inner dashes", 40, optional=True)]
VolumeName = Annotated[str, Words(r"[a-z0-9](?:[a-z0-9_.-]*[a-z0-9])?", "a-z, 0-9 and inner . _ -", 63, optional=True)]
HostName = Annotated[
    str,
    Words(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*", "a host name like shop.example.org, or *.example.org", 253),
    Tested(str.lower, "a host name like shop.example.org, or *.example.org"),
]
UrlPrefix = Annotated[str, Words(r"/|(?:/[A-Za-z0-9._~@:+,=%-]+)+/?", "a path like / or /shop, without query and quotes", 1024)]
UrlPath = Annotated[str, Words(r"/[!-~]*", "a path with an optional query, like /health?full=1, without blanks", 2048)]
HeaderName = Annotated[str, Words(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", "the name of a header", 128)]
HeaderValue = Annotated[
    str, Tested(_printable, "text without control characters"), Tested(_text, "text"), Tested(_as_text, "text", before=True)
]
Expression = Annotated[str, Tested(_expression, EXPRESSION_ALLOWED), Tested(_text, EXPRESSION_ALLOWED)]
GrpcService = Annotated[str, Words(r"[A-Za-z_][A-Za-z0-9_.]*", "the full name of a gRPC service", optional=True)]
_USER = rf"{_ACCOUNT}(?::{_ACCOUNT})?"
_USER_ALLOWED = "a name or number, and optionally a group: app, 1000, 1000:1000"
User = Annotated[
    str,
    Words(_USER, _USER_ALLOWED, optional=True),
    Tested(_as_text, _USER_ALLOWED, {"type": ["string", "integer"], "pattern": f"^(?:{_USER})?$"}, before=True),
]
Capability = Annotated[str, Tested(_capability, "a capability of Linux, with or without CAP_: NET_BIND_SERVICE …")]
Signal = Annotated[str, Tested(_signal, SIGNAL_ALLOWED)]
UlimitName = Annotated[str, Words("|".join(ULIMITS), ", ".join(ULIMITS))]
Credentials = Annotated[
    str, Words(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", "the name of a file, without folders", 128, optional=True)
]
DeviceName = Annotated[str, Words(r"[a-z0-9](?:[a-z0-9._/-]*[a-z0-9])?", "a-z, 0-9 and inner . _ / -, like gpu or example.org/fpga", 63)]
Attribute = Annotated[
    str, Words(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?", "the name of an attribute of nodes, like rack or os.name", 128)
]
POOL_NAME, POOL_LENGTH = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", 63
Pool = Annotated[str, Words(POOL_NAME, "a-z, 0-9 and inner dashes", POOL_LENGTH, optional=True)]
_SHARE_JSON = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^[0-9]{1,5}$|^([0-9]{1,2}|100)%$"}]}
Share = Annotated[str, Tested(_share, SHARE_ALLOWED, _SHARE_JSON, before=True)]
Whole = Annotated[int, Field(strict=True)]
Amount = Annotated[float, Unit(parse_number, "a number", show_number, r"^[0-9]+(\.[0-9]+)?$", 0.001, 1e9)]
Flag = Annotated[bool, Field(strict=True)]
PortNumber = Annotated[Whole, Field(ge=1, le=65535)]
Size = Annotated[int, size()]
Cores = Annotated[float, Unit(parse_cpu, CPU_ALLOWED, show_cores, r"^[0-9]+(\.[0-9]+)?m?$", 0.0, 4096.0)]
