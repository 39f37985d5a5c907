"""A small coordinator for the tests of gestaltctl: the real wire, real mutual TLS, canned but consistent answers.

What an app does is in the last part of its path: `…/fails` fails at every change, `…/endless` never ends one,
`…/gives-way` is superseded. `/broken/<kind>` answers with an error of that kind.
"""

# ruff: noqa: N802, ASYNC110 - the names are those of the contract; a server that streams on a timer is meant

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc

from gestalt.config import TlsSettings
from gestalt.errors import Detail, GestaltError, Kind
from gestalt.pki import Authority, Identity, Role
from gestalt.proto.v1 import api_pb2, api_pb2_grpc, model_pb2, spec_pb2
from gestalt.rpc import encode_error, status_message
from gestalt.rpc_server import RpcServer

T = TypeVar("T")
CLUSTER = "3fa9c1d2-0000-4000-8000-000000000000"
WEB = "/shop/main/prod/web"
DB = "/shop/main/prod/db"
SLOW = 0.03


@dataclass
class World:
    """What the coordinator knows, and what it was asked. Tests change it while it runs."""

    apps: dict[str, model_pb2.App] = field(default_factory=dict)
    instances: dict[str, model_pb2.Instance] = field(default_factory=dict)
    tasks: dict[str, model_pb2.Task] = field(default_factory=dict)
    requests: list[Any] = field(default_factory=list)
    exec_inputs: list[api_pb2.ExecInput] = field(default_factory=list)
    status: api_pb2.StatusReply = field(default_factory=api_pb2.StatusReply)
    node_problems: list[str] = field(default_factory=list)
    hang: bool = False
    log_end: threading.Event = field(default_factory=threading.Event)


def make_world() -> World:
    """Return two apps: `web`, well, with three instances, and `db`, in a crash loop."""
    world = World()
    add_app(world, WEB, count=3)
    add_app(world, DB, count=1, state="failed", message="1 instance in a crash loop")
    world.instances["db-77aa01-1"].observed.CopyFrom(
        model_pb2.Observed(
            instance="db-77aa01-1", attempt=6,
            phase=model_pb2.PHASE_FAILED, health=model_pb2.HEALTH_UNHEALTHY, exit_code=1, crash_loop=True,
            restarts=5, back_off=12, age=3.2, reason="it exits at once", log_tail=["opening /data", "fatal: no such file"],
        )
    )  # fmt: skip
    world.status = api_pb2.StatusReply(
        cluster_id=CLUSTER, epoch=4, version="0.1.0", mode="appliance", state="degraded", problems=["/shop/main/prod/db: 0 of 1 healthy"],
        apps=2, instances=4, healthy=3, nodes=1, nodes_ready=1, uptime=7380, store="sqlite",
    )  # fmt: skip
    return world


def add_app(world: World, path: str, *, count: int, state: str = "running", message: str = "") -> model_pb2.App:
    """Add an app whose instances all run and are healthy."""
    name = path.rpartition("/")[2]
    uid = {"web": "3fa9c1", "db": "77aa01"}.get(name, "00beef")
    port = spec_pb2.Port(name="http", container_port=8080, protocol="tcp", http=spec_pb2.HttpService(path_prefix="/"))
    spec = spec_pb2.AppSpec(path=path, runtime="docker", image=f"{name}:1", instances=count, ports=[port])
    spec.resources.memory = 64 * 1024**2
    app = model_pb2.App(
        path=path,
        uid=uid,
        revision=7,
        version=2,
        stable_version=2,
        count=count,
        running=count,
        healthy=count,
        state=state,
        message=message,
        spec=spec,
    )
    if state != "running":
        app.healthy = 0
    app.created_at.FromJsonString("2026-01-02T03:04:05Z")
    world.apps[path] = app
    for serial in range(1, count + 1):
        add_instance(world, app, serial)
    return app


def add_instance(world: World, app: model_pb2.App, serial: int) -> model_pb2.Instance:
    """Add an instance that runs and is healthy."""
    identity = f"{app.path.rpartition('/')[2]}-{app.uid}-{serial}"
    port = model_pb2.PortBinding(name="http", container_port=8080, host_port=3000 + serial, protocol="tcp")
    observed = model_pb2.Observed(
        instance=identity,
        attempt=1,
        phase=model_pb2.PHASE_RUNNING,
        health=model_pb2.HEALTH_HEALTHY,
        ready=True,
        age=65,
        runtime_id="c0ffee" * 8,
    )
    instance = model_pb2.Instance(
        id=identity, app=app.path, serial=serial, version=app.version, node="node1", ports=[port], observed=observed, address="127.0.0.1",
        reachability=model_pb2.REACHABILITY_REACHABLE,
    )  # fmt: skip
    world.instances[identity] = instance
    return instance


def answering(method: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
    """Turn our errors into gRPC's, as the coordinator does."""

    async def call(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> T:
        self.world.requests.append(request)
        if self.world.hang:
            await asyncio.sleep(3600)
        try:
            return await method(self, request, context)
        except GestaltError as error:
            code, metadata = encode_error(error)
            await context.abort(code, status_message(error), metadata)

    return call


class Apps(api_pb2_grpc.AppsServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def find(self, path: str) -> model_pb2.App:
        if path.startswith("/broken/"):
            details = [Detail("path", "is broken", "anything else")]
            raise GestaltError(Kind(path.rpartition("/")[2]), "this app is broken", hint="take another one", details=details)
        if path not in self.world.apps:
            raise GestaltError(Kind.NOT_FOUND, f"there is no app {path}", hint="gestaltctl ps --apps")
        return self.world.apps[path]

    def begin(self, kind: str, path: str, warnings: tuple[str, ...] = ()) -> api_pb2.ChangeReply:
        number = len(self.world.tasks) + 1
        task = model_pb2.Task(id=f"{number:04d}-{kind}", kind=kind, app=path, state="running", requested_by="user test", warnings=warnings)
        task.created_at.FromJsonString("2026-01-02T03:04:05Z")
        task.steps.add(name="place", state="running", total=2)
        task.steps.add(name="healthy", state="pending", total=2)
        self.world.tasks[task.id] = task
        return api_pb2.ChangeReply(tasks=[task])

    @answering
    async def Launch(self, request: api_pb2.LaunchRequest, context: Any) -> api_pb2.ChangeReply:
        for spec in request.apps:
            if spec.path in self.world.apps:
                raise GestaltError(Kind.EXISTS, f"the app {spec.path} exists already", hint="gestaltctl apply updates it")
        reply = api_pb2.ChangeReply()
        for spec in request.apps:
            reply.MergeFrom(self.begin("launch", spec.path, ("placement.pool is not honoured yet",)))
            reply.warnings.append(f"{spec.path}: placement.pool is not honoured yet")
        return reply

    @answering
    async def Update(self, request: api_pb2.LaunchRequest, context: Any) -> api_pb2.ChangeReply:
        return self.begin("update", self.find(request.apps[0].path).path)

    @answering
    async def Apply(self, request: api_pb2.LaunchRequest, context: Any) -> api_pb2.ChangeReply:
        return api_pb2.ChangeReply(unchanged=[spec.path for spec in request.apps])

    @answering
    async def Plan(self, request: api_pb2.PlanRequest, context: Any) -> api_pb2.PlanReply:
        return api_pb2.PlanReply(apps=[_plan(spec, spec.path in self.world.apps) for spec in request.apps])

    @answering
    async def Scale(self, request: api_pb2.ScaleRequest, context: Any) -> api_pb2.ChangeReply:
        return self.begin("scale", self.find(request.app).path)

    @answering
    async def Stop(self, request: api_pb2.AppRequest, context: Any) -> api_pb2.ChangeReply:
        return self.begin("stop", self.find(request.app).path)

    @answering
    async def Start(self, request: api_pb2.AppRequest, context: Any) -> api_pb2.ChangeReply:
        return self.begin("start", self.find(request.app).path)

    @answering
    async def Restart(self, request: api_pb2.AppRequest, context: Any) -> api_pb2.ChangeReply:
        return self.begin("restart", self.find(request.app).path)

    @answering
    async def Rollback(self, request: api_pb2.RollbackRequest, context: Any) -> api_pb2.ChangeReply:
        return self.begin("rollback", self.find(request.app).path)

    @answering
    async def Delete(self, request: api_pb2.DeleteRequest, context: Any) -> api_pb2.ChangeReply:
        return self.begin("delete", self.find(request.app).path)

    @answering
    async def Get(self, request: api_pb2.GetRequest, context: Any) -> api_pb2.AppReply:
        app = self.find(request.app)
        return api_pb2.AppReply(app=app, instances=[item for item in self.world.instances.values() if item.app == app.path])

    @answering
    async def List(self, request: api_pb2.ListRequest, context: Any) -> api_pb2.ListReply:
        apps = [app for app in self.world.apps.values() if app.path.startswith(request.prefix)]
        instances = [item for item in self.world.instances.values() if item.app.startswith(request.prefix)]
        return api_pb2.ListReply(apps=apps, instances=instances if request.with_instances else [])

    @answering
    async def History(self, request: api_pb2.GetRequest, context: Any) -> api_pb2.HistoryReply:
        spec = self.find(request.app).spec
        second = model_pb2.Version(number=2, spec=spec, created_by="user test", current=True, stable=True)
        second.changes.add(field="image", before='"web:0"', after='"web:1"')
        second.changes.add(field="env.MODE", after='"fast"')
        second.changes.add(field="labels.team", before='"a"')
        first = model_pb2.Version(number=1, spec=spec, created_by="user test")
        for version in (second, first):
            version.created_at.FromJsonString("2026-01-02T03:04:05Z")
        return api_pb2.HistoryReply(versions=[second, first])

    async def Logs(self, request: api_pb2.LogsRequest, context: Any) -> AsyncIterator[api_pb2.LogChunk]:
        self.world.requests.append(request)
        if request.instance:
            yield api_pb2.LogChunk(instance=request.instance, data=b"alone\x00\xff\nno end of line")
            return
        yield api_pb2.LogChunk(instance="web-3fa9c1-1", data=b"one\ntwo\n")
        yield api_pb2.LogChunk(instance="web-3fa9c1-2", data=b"oops\n", stderr=True)
        if request.follow:
            yield api_pb2.LogChunk(instance="web-3fa9c1-1", notice="ended with exit code 0")
            yield api_pb2.LogChunk(instance="web-3fa9c1-4", data=b"I go on\n")
            while not self.world.log_end.is_set():
                await asyncio.sleep(SLOW)

    async def Exec(self, inputs: AsyncIterator[api_pb2.ExecInput], context: Any) -> AsyncIterator[api_pb2.ExecOutput]:
        async for item in inputs:
            self.world.exec_inputs.append(item)
            if item.HasField("open") and item.open.instance not in self.world.instances:
                code, metadata = encode_error(GestaltError(Kind.NOT_FOUND, f"there is no instance {item.open.instance}"))
                await context.abort(code, "gone", metadata)
            if item.HasField("open") and item.open.command[0] == "vanish":
                return
            if item.HasField("open") and item.open.command[0] == "greet":
                await context.send_initial_metadata((("gestalt-exec", "accepted"),))
            for output in _outputs(item):
                yield output
                if output.HasField("exit_code"):
                    return


def _outputs(item: api_pb2.ExecInput) -> list[api_pb2.ExecOutput]:
    """Return what a command answers to one input: it tells its terminal's size, echoes, and ends as it was told."""
    if item.HasField("open") and item.open.command[0] == "exit":
        out, err = api_pb2.ExecOutput(stdout=b"out\n"), api_pb2.ExecOutput(stderr=b"err\n")
        return [out, err, api_pb2.ExecOutput(exit_code=int(item.open.command[1]))]
    if item.HasField("resize") or item.open.tty:
        size = item.resize if item.HasField("resize") else item.open
        return [api_pb2.ExecOutput(stdout=f"size {size.rows}x{size.columns}\r\n".encode())]
    if item.HasField("stdin"):
        echo = api_pb2.ExecOutput(stdout=b"<" + item.stdin + b">")
        return [echo, api_pb2.ExecOutput(exit_code=3)] if item.stdin == b"q" else [echo]
    if item.stdin_closed:
        return [api_pb2.ExecOutput(stdout=b"end of input\n"), api_pb2.ExecOutput(exit_code=0)]
    return []


def _plan(spec: spec_pb2.AppSpec, exists: bool) -> api_pb2.AppPlan:
    plan = api_pb2.AppPlan(
        app=spec.path, action="update" if exists else "launch", notes=["replaced one by one"], warnings=["pool is not honoured yet"]
    )
    if exists:
        plan.changes.add(field="image", before='"web:1"', after='"web:2"')
        plan.instances.add(action="stop", instance="web-3fa9c1-1", node="node1", version=2)
    plan.instances.add(action="start", node="node1", version=3)
    plan.instances.add(action="cannot place", reason="no node has 64 free cores", version=3)
    return plan


class Tasks(api_pb2_grpc.TasksServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    def find(self, start: str) -> model_pb2.Task:
        found = [task for key, task in self.world.tasks.items() if key.startswith(start)]
        if len(found) != 1:
            raise GestaltError(Kind.INVALID if found else Kind.NOT_FOUND, f"{len(found)} tasks begin with {start}")
        return found[0]

    @answering
    async def Get(self, request: api_pb2.GetTaskRequest, context: Any) -> model_pb2.Task:
        return self.find(request.id)

    @answering
    async def List(self, request: api_pb2.ListTasksRequest, context: Any) -> api_pb2.ListTasksReply:
        tasks = [task for task in self.world.tasks.values() if request.app in {"", task.app}]
        return api_pb2.ListTasksReply(tasks=tasks[::-1])

    async def Watch(self, request: api_pb2.GetTaskRequest, context: Any) -> AsyncIterator[model_pb2.Task]:
        task = self.world.tasks[request.id]
        while True:
            yield task
            if task.state != "running":
                return
            await asyncio.sleep(SLOW)
            advance(task)


def advance(task: model_pb2.Task) -> None:
    """Take a task one step on, towards the end that its app's name stands for."""
    task.elapsed += 0.5
    place, healthy = task.steps
    instance = f"{task.app.rpartition('/')[2]}-00beef-1"
    if place.state == "running":
        place.state, place.done, healthy.state = "done", 2, "running"
        task.instances.add(instance=instance, node="node1", phase=model_pb2.PHASE_STARTING)
    elif not task.app.endswith("/endless"):
        task.instances[0].phase, task.instances[0].health = model_pb2.PHASE_RUNNING, model_pb2.HEALTH_HEALTHY
        failed, gave_way = task.app.endswith("/fails"), task.app.endswith("/gives-way")
        healthy.state, healthy.done = ("failed", 1) if failed else ("done", 2)
        task.state = "failed" if failed else "superseded" if gave_way else "succeeded"
        task.message = (
            "1 of 2 instances never became healthy" if failed else "by a newer update" if gave_way else "2 of 2 instances are healthy"
        )


class Nodes(api_pb2_grpc.NodesServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    @answering
    async def List(self, request: api_pb2.ListNodesRequest, context: Any) -> api_pb2.ListNodesReply:
        facts = model_pb2.Facts(cpu=2, memory=8 * 1024**3, load=0.5, disk=100 * 1024**3, disk_free=25 * 1024**3, runtimes=["docker"])
        used = spec_pb2.Resources(cpu=0.4, memory=256 * 1024**2)
        node = model_pb2.Node(
            id="n-1", name="node1", state="ready", address="127.0.0.1", facts=facts, instances=4, allocated=used, last_seen=0.5,
            problems=self.world.node_problems,
        )  # fmt: skip
        return api_pb2.ListNodesReply(nodes=[node])


class Events(api_pb2_grpc.EventsServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    async def Watch(self, request: api_pb2.WatchEventsRequest, context: Any) -> AsyncIterator[api_pb2.EventBatch]:
        kept = [_event(f"4.{number}", "instance.failed" if number % 2 else "task.succeeded") for number in range(1, 5)]
        self.world.requests.append(api_pb2.WatchEventsRequest.FromString(request.SerializeToString()))
        new = [event for event in kept if event.token > request.after]
        yield api_pb2.EventBatch(events=new, gap=request.after == "0")
        while request.follow:
            await asyncio.sleep(SLOW)


def _event(token: str, kind: str) -> model_pb2.Event:
    event = model_pb2.Event(token=token, kind=kind, subject="db-77aa01-1", message="it ended with exit code 1", app=DB)
    event.at.FromJsonString("2026-01-02T03:04:05Z")
    return event


class Cluster(api_pb2_grpc.ClusterServicer):
    def __init__(self, world: World) -> None:
        self.world = world

    @answering
    async def Status(self, request: api_pb2.StatusRequest, context: Any) -> api_pb2.StatusReply:
        return self.world.status


class CtlServer:
    """The coordinator in a thread of its own, so that tests may start gestaltctl and wait for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = make_world()
        self.authority = Authority.ensure(folder / "pki", CLUSTER)
        self._pair = self.authority.issue(Identity(CLUSTER, Role.COORDINATOR, "one"), "server", dns=["localhost"], addresses=["127.0.0.1"])
        self.authority.issue(Identity(CLUSTER, Role.USER, "test"), "user")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ctl-server", daemon=True)
        self._thread.start()
        self.port = 0
        self._server: RpcServer | None = None
        self.start()
        self.config = folder / "config.yaml"
        self.write_config()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=20)

    def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        tls = TlsSettings(ca=self.authority.certificate, certificate=self._pair.certificate, key=self._pair.key)
        self._server = self.run(RpcServer.start(f"127.0.0.1:{self.port}", tls, self._register))
        self.port = self._server.port

    def stop(self) -> None:
        """Hang up at once."""
        if self._server:
            self.run(self._server.stop(0))
            self._server = None

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=20)

    def _register(self, server: grpc.aio.Server) -> list[str]:
        api_pb2_grpc.add_AppsServicer_to_server(Apps(self.world), server)
        api_pb2_grpc.add_TasksServicer_to_server(Tasks(self.world), server)
        api_pb2_grpc.add_NodesServicer_to_server(Nodes(self.world), server)
        api_pb2_grpc.add_EventsServicer_to_server(Events(self.world), server)
        api_pb2_grpc.add_ClusterServicer_to_server(Cluster(self.world), server)
        return ["gestalt.v1.Apps"]

    def reset(self) -> None:
        """Forget what tests did."""
        fresh = make_world()
        for name in World.__dataclass_fields__:
            setattr(self.world, name, getattr(fresh, name))

    def write_config(self, *, pair: str = "user", ca: Path | None = None, name: str = "config.yaml", ports: tuple[int, ...] = ()) -> Path:
        """Write a file of contexts with one context, `test`."""
        addresses = ", ".join(f"127.0.0.1:{port}" for port in (*ports, self.port))
        authority = ca or self.authority.certificate
        files = f"ca: {authority}, certificate: pki/{pair}.crt, key: pki/{pair}.key"
        text = f"# kept\ncurrent: test\ncontexts:\n  test: {{coordinators: [{addresses}], {files}}}\n"
        path = self.folder / name
        path.write_text(text)
        return path

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "GESTALT_CONFIG": str(self.config), "TZ": "UTC", "LANG": "C.UTF-8"}

    def ctl(self, *args: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run gestaltctl to its end."""
        return subprocess.run(
            [*PROGRAM, *args],
            input=stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            env=self.environment() | (env or {}),
            timeout=30,
            check=False,
        )


PROGRAM = (sys.executable, "-c", "from gestalt.ctl.main import main; main()")
APP_FILE = """\
path: /shop/main/prod/{name}
image: {name}:1
instances: 2
"""
