"""The schema of the app description. Field names and shapes are those of `proto/v1/spec.proto`.

A valid `AppSpec` is immutable and normalised: sizes are bytes, durations seconds, cores a float, checks have a name and
a port. It is the *template* of an app's versions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from . import app_rules, autoscale_rules, kind_rules, part_rules, values
from .completion import complete, complete_check, complete_condition, complete_constraint
from .part import Part, Rule


class Resources(Part):
    """What one instance may use, and what is set aside for it when it is placed."""

    cpu: Annotated[values.Cores, Field(description="Cores. Set aside on the node; more may be used while nobody else needs it.")] = 0.1
    memory: Annotated[values.Size, Field(description="Memory limit, swap included; beyond it the instance is killed. 0 = no limit.")] = 0
    disk: Annotated[values.Size, Field(description="Space for what the instance writes outside of volumes. 0 = no limit.")] = 0
    pids: Annotated[values.Whole, Field(ge=0, le=4_194_304, description="Processes and threads at once. 0 = no limit.")] = 0
    devices: Annotated[
        dict[values.DeviceName, Annotated[values.Whole, Field(ge=1, le=1_000_000)]],
        Field(max_length=20, description="Other things by name, as many as one instance needs. A node has what its agent's settings say."),
    ] = {}


class HttpService(Part):
    """The port is served by the load balancer over HTTP, by host name and path."""

    hosts: Annotated[
        tuple[values.HostName, ...], Field(max_length=100, description="Host names, `*.` before one for all below it. None = any.")
    ] = ()
    path_prefix: Annotated[values.UrlPrefix, Field(description="Only requests below this path; the longest prefix wins.")] = "/"
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.hosts_differ,)


class TcpService(Part):
    """The port is served by the load balancer as a plain TCP port."""

    port: Annotated[values.PortNumber, Field(description="The port on which the load balancer listens.")]


class Port(Part):
    """A port on which instances listen. It is published on a host port, which the instance finds in `PORT_<NAME>` if it is a process."""

    name: Annotated[values.PortName, Field(description="By this name checks and variables (`PORT_<NAME>`) refer to it.")]
    container_port: Annotated[
        values.Whole,
        Field(ge=0, le=65535, description="Where the app listens in its container. 0 = on the number of the host port. Not for processes."),
    ] = 0
    protocol: Annotated[Literal["tcp", "udp"], Field(description="What it speaks.")] = "tcp"
    host_port: Annotated[
        values.Whole,
        Field(ge=0, le=65535, description="A fixed port of the node: then one instance a node. 0 = one from the node's range."),
    ] = 0
    http: Annotated[HttpService | None, Field(description="Serve it over HTTP through the load balancer.")] = None
    tcp: Annotated[TcpService | None, Field(description="Serve it as a TCP port of the load balancer.")] = None
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.udp_has_no_service,)


class Volume(Part):
    """Storage that instances see: a named volume or a path of the node, one of both."""

    name: Annotated[values.VolumeName, Field(description="A named volume of the app on the node; made when first used.")] = ""
    host_path: Annotated[values.Path, Field(description="A path of the node that exists already.")] = ""
    target: Annotated[values.Folder, Field(description="Where the instance sees it. For a process the same as `host_path`.")]
    read_only: Annotated[values.Flag, Field(description="The instance may not write to it.")] = False
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.volume_has_one_source,)


class Check(Part):
    """A health check. Failures ask for a restart (liveness) or keep requests away (readiness)."""

    name: Annotated[values.CheckName, Field(description="Its name in reports. Empty = its kind and number, like `http-1`.")] = ""
    kind: Annotated[
        Literal["http", "https", "tcp", "grpc", "exec", "docker"], Field(description="How it asks. `docker` is the image's HEALTHCHECK.")
    ]
    purpose: Annotated[
        Literal["liveness", "readiness", "both"], Field(description="Unhealthy means: restart it, or send it no requests, or both.")
    ] = "both"
    port: Annotated[values.PortReference, Field(description="Name of the port to ask. Empty = the app's first tcp port.")] = ""
    path: Annotated[values.UrlPath, Field(description="http(s): what to ask for; redirects are not followed.")] = "/"
    method: Annotated[Literal["GET", "HEAD", "OPTIONS", "POST", "PUT"], Field(description="http(s): the method.")] = "GET"
    headers: Annotated[
        dict[values.HeaderName, values.HeaderValue], Field(max_length=50, description="http(s): further headers; `Host` is one.")
    ] = {}
    expect_status: Annotated[
        tuple[Annotated[values.Whole, Field(ge=200, le=599)], ...],
        Field(max_length=50, description="http(s): what counts as well. None = 200 to 399."),
    ] = ()
    expect_body: Annotated[values.Expression, Field(description="http(s): searched in the first 64 KiB of the body. Empty = any body.")] = (
        ""
    )
    verify_tls: Annotated[values.Flag, Field(description="https: the certificate must be valid for the Host header (or the address).")] = (
        False
    )
    service: Annotated[values.GrpcService, Field(description="grpc: the service asked about. Empty = the server as a whole.")] = ""
    command: Annotated[
        tuple[values.Argument, ...], Field(max_length=1000, description="exec: run inside the instance; exit code 0 is well.")
    ] = ()
    grace: Annotated[
        float,
        values.duration(0.0),
        Field(description="So long after the start failures do not count, until it was healthy for the first time."),
    ] = 10.0
    interval: Annotated[
        float, values.duration(0.1), Field(description="Between two runs; quicker at first, while an instance comes up.")
    ] = 5.0
    timeout: Annotated[
        float,
        values.duration(0.01),
        Field(description="Of a whole run; at most the interval, which is also what it is by default when shorter."),
    ] = 2.0
    failures: Annotated[values.Whole, Field(ge=1, le=1000, description="So many in a row until it is unhealthy.")] = 3
    successes: Annotated[values.Whole, Field(ge=1, le=1000, description="So many in a row until it is healthy.")] = 1
    RULES: ClassVar[tuple[Rule, ...]] = part_rules.CHECK

    @classmethod
    def completed(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return complete_check(data)


class Restart(Part):
    """What happens when an instance ends by itself."""

    policy: Annotated[Literal["always", "on-failure", "never"], Field(description="`on-failure`: not after exit code 0.")] = "always"
    backoff: Annotated[
        float, values.duration(0.0), Field(description="Before the second restart in a row; doubles each time. The first is at once.")
    ] = 1.0
    backoff_max: Annotated[float, values.duration(0.0), Field(description="It grows no longer than this.")] = 60.0
    crash_loop: Annotated[
        values.Whole, Field(ge=0, le=1000, description="So many exits within `window` are called a crash loop. 0 = never.")
    ] = 5
    window: Annotated[float, values.duration(1.0), Field(description="See `crash_loop`.")] = 120.0
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.backoff_grows,)


class Stop(Part):
    """How an instance is stopped."""

    signal: Annotated[values.Signal, Field(description="What asks it to end.")] = "SIGTERM"
    grace: Annotated[float, values.duration(0.0, 86400.0), Field(description="From the signal to SIGKILL.")] = 10.0
    drain: Annotated[
        float, values.duration(0.0, 86400.0), Field(description="So long its connections may take to end before the signal.")
    ] = 5.0


class Security(Part):
    """What an instance may do."""

    user: Annotated[
        values.User, Field(description="Name or number, optionally with group. Empty = the image's, or root for a process.")
    ] = ""
    capabilities: Annotated[tuple[values.Capability, ...], Field(max_length=64, description="Kept; all others are dropped.")] = ()
    read_only_root: Annotated[values.Flag, Field(description="It can write to volumes and /tmp only.")] = False
    no_new_privileges: Annotated[values.Flag, Field(description="Set-user-id programs gain nothing.")] = True
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.capabilities_differ,)


class Ulimit(Part):
    """A resource limit of the kernel; -1 is unlimited."""

    soft: Annotated[values.Whole, Field(ge=-1, le=values.INT64_MAX, description="What holds at first.")]
    hard: Annotated[values.Whole, Field(ge=-1, le=values.INT64_MAX, description="What the program may raise it to.")]
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.soft_within_hard,)


class Logging(Part):
    """What becomes of standard output and error."""

    driver: Annotated[Literal["json-file", "none"], Field(description="`none` keeps nothing; `gestaltctl logs` is empty then.")] = (
        "json-file"
    )
    max_size: Annotated[int, values.size(4096), Field(description="Of one file; then the next one begins.")] = 10 * 1024**2
    max_files: Annotated[values.Whole, Field(ge=1, le=1000, description="The oldest are removed.")] = 3


Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "not-in", "contains", "matches", "not-matches", "version", "exists", "missing"]
ConstraintOperator = Literal[Operator, "unique", "max-per", "group-by", "cluster"]


class Constraint(Part):
    """A node must fulfil it to be taken, or all instances together, of an operator that distributes them."""

    attribute: Annotated[values.Attribute, Field(description="Of the node: a label, or one that every node has, like `node.name`.")]
    operator: Annotated[
        ConstraintOperator,
        Field(
            description="`in`, `not-in` and `contains` (all of them) take a list with commas between, `matches` a regular expression for"
            " the whole value, `version` comparisons like `>= 20.10, < 27`. `unique`: one instance for each value; `max-per`: at most so"
            " many; `group-by`: their numbers differ by one at most; `cluster`: all have the same value."
        ),
    ] = "="
    value: Annotated[
        values.Text,
        Field(
            description="What to compare with; empty for `exists`, `missing`, `unique` and `cluster`. A number for `max-per` (1 if empty)"
            " and `group-by` (how many values there have to be; empty = those that there are)."
        ),
    ] = ""
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.value_fits_operator,)

    @classmethod
    def completed(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return complete_constraint(data)


class Affinity(Part):
    """A node that fulfils it is preferred, or avoided with a weight below 0."""

    attribute: Annotated[values.Attribute, Field(description="Of the node.")]
    operator: Annotated[Operator, Field(description="As in constraints, but none that distributes instances.")] = "="
    value: Annotated[values.Text, Field(description="As in constraints.")] = ""
    weight: Annotated[values.Whole, Field(ge=-100, le=100, description="How much it counts.")] = 50
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.value_fits_operator,)

    @classmethod
    def completed(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return complete_condition(data)


class Beside(Part):
    """A node that has an instance of another app is preferred, or avoided with a weight below 0."""

    apps: Annotated[values.Apps, Field(description="By path, or by labels that they have: `tier=db`, or several with commas between.")]
    weight: Annotated[values.Whole, Field(ge=-100, le=100, description="How much it counts.")] = 50


class Spread(Part):
    """Instances are spread over the values of an attribute."""

    attribute: Annotated[values.Attribute, Field(description="Of the node, like `rack`.")]
    targets: Annotated[
        dict[values.Text, Annotated[values.Whole, Field(ge=0, le=100)]],
        Field(max_length=1000, description="Percentage by value; none = evenly."),
    ] = {}
    weight: Annotated[values.Whole, Field(ge=0, le=100, description="How much it counts.")] = 50
    RULES: ClassVar[tuple[Rule, ...]] = (part_rules.percentages_fit,)


MIN_DIFFERENCE = 10
"""Only instances of apps whose priority is lower by at least so much are stopped to make room for others."""


class Placement(Part):
    """On which nodes instances run."""

    constraints: Annotated[tuple[Constraint, ...], Field(max_length=100, description="All must hold.")] = ()
    affinities: Annotated[tuple[Affinity, ...], Field(max_length=100, description="Preferences.")] = ()
    spread: Annotated[tuple[Spread, ...], Field(max_length=20, description="Over what to spread, beyond nodes.")] = ()
    apart_from: Annotated[
        tuple[values.Apps, ...],
        Field(
            max_length=100,
            description="Apps, by path, or by labels that they have, with whose instances it shares no node, whichever of them came first.",
        ),
    ] = ()
    beside: Annotated[
        tuple[Beside, ...], Field(max_length=100, description="Preferences for nodes that have instances of other apps.")
    ] = ()
    strategy: Annotated[
        Literal["", "spread", "binpack"],
        Field(description="Many nodes, or few full ones. Empty = as was said for the pool, or for the cluster, else spread."),
    ] = ""
    pool: Annotated[values.Pool, Field(description="Only nodes of this pool. Empty = the default one.")] = ""
    priority: Annotated[values.Whole, Field(ge=0, le=100, description="Of the apps that wait for room, higher ones get it first.")] = 50
    preempt: Annotated[
        values.Flag,
        Field(description=f"Where it has no room, instances of apps whose priority is lower by {MIN_DIFFERENCE} or more are stopped."),
    ] = False
    exclusive: Annotated[
        values.Flag, Field(description="Never two instances at work at once, whatever fails. Then instances is 0 or 1.")
    ] = False
    on_isolation: Annotated[Literal["keep", "stop"], Field(description="On a node that is cut off: keep running, or stop.")] = "keep"
    failover_after: Annotated[
        float, values.duration(0.0), Field(description="An unreachable node's instances are replaced after this.")
    ] = 60.0


class Update(Part):
    """How instances are replaced when the description changes."""

    strategy: Annotated[Literal["rolling", "canary", "blue_green", "recreate"], Field(description="In which order.")] = "rolling"
    max_surge: Annotated[values.Share, Field(description="So many more than wanted may run meanwhile (percentages round up).")] = "1"
    max_unavailable: Annotated[
        values.Share, Field(description="So many fewer than wanted may be ready meanwhile (percentages round down).")
    ] = "0"
    min_healthy_time: Annotated[
        float, values.duration(0.0), Field(description="So long a new instance must stay healthy before the next step.")
    ] = 0.0
    health_deadline: Annotated[float, values.duration(1.0), Field(description="So long a new instance may take to become healthy.")] = 120.0
    progress_deadline: Annotated[float, values.duration(1.0), Field(description="The change fails when nothing got on for so long.")] = (
        300.0
    )
    auto_rollback: Annotated[values.Flag, Field(description="A change that fails goes back to the last version that was well.")] = True
    canary: Annotated[
        values.Share,
        Field(description="canary: so many instances of the new version run beside the others at first (percentages round up)."),
    ] = "1"
    promote: Annotated[
        Literal["manual", "auto"], Field(description="canary: whether an operator lets the new version go on, or `promote_after` does.")
    ] = "manual"
    promote_after: Annotated[
        float, values.duration(1.0), Field(description="canary: all of them must stay healthy for so long; with `promote: auto`.")
    ] = 300.0
    RULES: ClassVar[tuple[Rule, ...]] = part_rules.UPDATE


class ImagePull(Part):
    """How the image comes to the node."""

    policy: Annotated[
        Literal["missing", "always", "never"], Field(description="`always` asks the registry each time, `never` takes what is on the node.")
    ] = "missing"
    credentials: Annotated[values.Credentials, Field(description="Name of a credentials file on the nodes; never the secret itself.")] = ""


class Metric(Part):
    """Something that is measured of an app, and how much of it each instance is to have, on average."""

    kind: Annotated[
        Literal["cpu", "memory", "requests", "queue"],
        Field(
            description="`cpu`: percent of `resources.cpu`; `memory`: percent of `resources.memory`; `requests`: HTTP requests a second"
            " through the load balancers; `queue`: requests and connections there that are under way."
        ),
    ]
    target: Annotated[values.Amount, Field(description="So much for each instance.")]
    RULES: ClassVar[tuple[Rule, ...]] = autoscale_rules.METRIC


class Autoscale(Part):
    """The number of instances follows what is measured. Run state, as that number is: a change makes no version."""

    min: Annotated[values.Whole, Field(ge=1, le=100_000, description="Never fewer.")]
    max: Annotated[values.Whole, Field(ge=1, le=100_000, description="Never more.")]
    metrics: Annotated[tuple[Metric, ...], Field(max_length=4, description="Of several, the one that asks for most instances decides.")]
    window: Annotated[
        float, values.duration(1.0, 3600.0), Field(description="What is measured is averaged over so long; nothing is decided on less.")
    ] = 60.0
    cool_down_up: Annotated[
        float, values.duration(0.0), Field(description="So long after the last change was done nothing is added; at least `window`.")
    ] = 60.0
    cool_down_down: Annotated[float, values.duration(0.0), Field(description="Likewise, nothing is taken away.")] = 300.0
    max_step: Annotated[
        values.Share, Field(description="At most so many more or fewer at once: a count, or a percentage of those there are, rounded up.")
    ] = "100%"
    dry_run: Annotated[values.Flag, Field(description="Only say what would be done, in `inspect` and in events.")] = False
    RULES: ClassVar[tuple[Rule, ...]] = autoscale_rules.AUTOSCALE


class Parameter(Part):
    """A variable that a run may set."""

    default: Annotated[values.Argument, Field(description="What it is when a run does not set it.")] = ""
    required: Annotated[values.Flag, Field(description="Each run has to set it.")] = False
    RULES: ClassVar[tuple[Rule, ...]] = kind_rules.PARAMETER


class Schedule(Part):
    """When a job runs by itself."""

    cron: Annotated[
        values.Text, Field(description="Minute, hour, day, month, weekday: `0 3 * * *`, `*/15 8-18 * * mon-fri`. 0 and 7 are Sunday.")
    ]
    timezone: Annotated[values.Text, Field(description="In which these times are, like Europe/Berlin.")] = "UTC"
    overlap: Annotated[
        Literal["forbid", "allow"],
        Field(description="`forbid`: none is started while a run of the job is under way; that time is left out."),
    ] = "forbid"
    missed: Annotated[
        Literal["run-once", "skip"], Field(description="What is done for times at which nobody led: one run for all of them, or none.")
    ] = "run-once"
    RULES: ClassVar[tuple[Rule, ...]] = kind_rules.SCHEDULE


class JobKeep(Part):
    """What is kept of runs that ended: their outcome, and the logs of their instances."""

    runs: Annotated[values.Whole, Field(ge=0, le=1000, description="So many, the newest ones.")] = 10
    time: Annotated[float, values.duration(0.0), Field(description="None that ended longer ago.")] = 86400.0


class Job(Part):
    """How the runs of a job go. `restart.backoff` says how long a failed instance waits for its replacement."""

    completions: Annotated[values.Whole, Field(ge=1, le=1000, description="So many instances of a run have to end with exit code 0.")] = 1
    parallelism: Annotated[values.Whole, Field(ge=1, le=1000, description="At most so many of a run are at work at once.")] = 1
    retries: Annotated[
        values.Whole, Field(ge=0, le=1000, description="So many failed instances of a run are replaced; one more, and the run has failed.")
    ] = 3
    deadline: Annotated[float, values.duration(0.0), Field(description="A run that takes longer has failed. 0 = it may take any time.")] = (
        0.0
    )
    parameters: Annotated[
        dict[values.EnvName, Parameter], Field(max_length=100, description="Variables that runs may set: `gestaltctl run --set`.")
    ] = {}
    keep: Annotated[JobKeep, Field(description="What is kept of ended runs.")] = JobKeep()
    schedule: Annotated[Schedule | None, Field(description="When it runs by itself. None: `gestaltctl run` alone starts runs.")] = None
    RULES: ClassVar[tuple[Rule, ...]] = kind_rules.JOB


class AppSpec(Part):
    """The description of one app."""

    path: Annotated[values.AppPath, Field(description="The app's address. It cannot be changed.", examples=["/acme/shop/production/web"])]
    kind: Annotated[
        Literal["service", "system", "job"],
        Field(
            description="`service`: so many instances, wherever they fit best. `system`: one on every node that matches."
            " `job`: runs that come to an end."
        ),
    ] = "service"
    runtime: Annotated[
        Literal["docker", "process"], Field(description="What runs it. Left out: `docker` with an image, `process` with only a command.")
    ] = "docker"
    image: Annotated[values.Image, Field(description="docker: the image.")] = ""
    command: Annotated[
        tuple[values.Argument, ...],
        Field(max_length=1000, description="The program and its first arguments; replaces the image's entrypoint."),
    ] = ()
    args: Annotated[tuple[values.Argument, ...], Field(max_length=1000, description="Further arguments; replace the image's command.")] = ()
    env: Annotated[
        dict[values.EnvName, values.Argument],
        Field(max_length=1000, description="Variables. `GESTALT_*` and `PORT_<NAME>` are set for you."),
    ] = {}
    labels: Annotated[
        dict[values.LabelName, values.Argument],
        Field(
            max_length=200,
            description="Put on the container; `placement` of other apps may speak of them. Names beginning with `gestalt` are ours. "
            "A name has at most 128 characters, a value 1024.",
        ),
    ] = {}
    workdir: Annotated[values.Path, Field(description="Working folder. Empty = the image's, or / for a process.")] = ""
    instances: Annotated[values.Whole, Field(ge=0, le=100_000, description="How many run. Only of services.")] = 1
    resources: Annotated[Resources, Field(description="What one instance may use.")] = Resources()
    ports: Annotated[tuple[Port, ...], Field(max_length=100, description="On what it listens, and how it is served.")] = ()
    volumes: Annotated[tuple[Volume, ...], Field(max_length=100, description="Storage.")] = ()
    checks: Annotated[tuple[Check, ...], Field(max_length=50, description="Health checks. None = healthy as long as it runs.")] = ()
    restart: Annotated[Restart, Field(description="What happens when it ends.")] = Restart()
    stop: Annotated[Stop, Field(description="How it is stopped.")] = Stop()
    security: Annotated[Security, Field(description="What it may do.")] = Security()
    ulimits: Annotated[dict[values.UlimitName, Ulimit], Field(description="Resource limits of the kernel by name.")] = {}
    logging: Annotated[Logging, Field(description="What becomes of its output.")] = Logging()
    placement: Annotated[Placement, Field(description="On which nodes it runs.")] = Placement()
    update: Annotated[Update, Field(description="How it is updated.")] = Update()
    depends_on: Annotated[tuple[values.AppPath, ...], Field(max_length=100, description="Apps that are to be healthy first, by path.")] = ()
    pull: Annotated[ImagePull, Field(description="docker: how the image comes to the node.")] = ImagePull()
    autoscale: Annotated[
        Autoscale | None, Field(description="Have the number of instances follow the load; `instances` is then what it begins with.")
    ] = None
    job: Annotated[Job | None, Field(description="How the runs of a job go.")] = None
    RULES: ClassVar[tuple[Rule, ...]] = app_rules.APP

    @classmethod
    def completed(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        return complete(data)


__all__ = [
    "Affinity", "AppSpec", "Autoscale", "Beside", "Check", "Constraint", "HttpService", "ImagePull", "Job", "JobKeep", "Logging", "Metric",
    "Parameter", "Part", "Placement", "Port", "Resources", "Restart", "Schedule", "Security", "Spread", "Stop", "TcpService", "Ulimit",
    "Update", "Volume",
]  # fmt: skip
