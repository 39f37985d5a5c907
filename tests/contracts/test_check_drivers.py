"""Check drivers against real servers on loopback: well-behaved ones, and all the ways in which an instance can misbehave."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gestalt.plugin.check import CheckDriver, CheckResult, CheckTarget
from gestalt.plugin.registry import driver_names, find_driver
from gestalt.plugin.runtime import AttemptKey, AttemptState, AttemptStatus, DriverUnavailable, LaunchRefused
from gestalt.plugins.check import http as http_module
from gestalt.spec.schema import Check

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def _no_exec(argv: Sequence[str], limit: float) -> tuple[int, bytes]:
    raise AssertionError("this check runs no command")


async def _no_inspect() -> AttemptStatus | None:
    raise AssertionError("this check does not inspect")


def target(port: int, **other: Any) -> CheckTarget:
    return CheckTarget("127.0.0.1", {"web": port}, other.get("exec", _no_exec), other.get("inspect", _no_inspect))


def check(kind: str, **fields: Any) -> Check:
    return Check(kind=kind, **{"name": "c", "timeout": 1.0, **fields})


async def run(check: Check, to: CheckTarget) -> CheckResult:
    """Run and hold the driver to what every driver promises: a short printable result, in time."""
    driver: CheckDriver = find_driver("check", check.kind)()
    begun = time.monotonic()
    result = await driver.run(check, to)
    assert time.monotonic() - begun < check.timeout + 0.5, f"{check.kind} took longer than its timeout: {result}"
    assert 0 < len(result.output) <= 500
    assert result.output.isprintable()
    return result


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server of which every connection must be closed by the time a check has ended."""
    open_now = 0
    idle = asyncio.Event()
    idle.set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        idle.clear()
        try:
            await serve(reader, writer)
            await reader.read()  # the client's end of the connection
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            open_now -= 1
            if not open_now:
                idle.set()
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
        try:
            await asyncio.wait_for(idle.wait(), 3)
        except TimeoutError:
            pytest.fail(f"{open_now} connections left open by the check")
    finally:
        server.close()


def answering(answer: bytes, *, close: bool = False) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if close:
            writer.close()

    return serve


def dripping(answer: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for letter in answer:
            writer.write(bytes([letter]))
            await writer.drain()
            await asyncio.sleep(0.05)

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def resetting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.transport.abort()


async def closed_port() -> int:
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    return port


def test_every_kind_has_a_driver() -> None:
    assert set(driver_names("check")) >= {"http", "https", "tcp", "grpc", "exec", "docker"}


@pytest.mark.parametrize("kind", ["http", "https", "tcp", "grpc"])
async def test_closed_port_is_a_result(kind: str) -> None:
    result = await run(check(kind), target(await closed_port()))
    assert not result.ok
    assert "refuse" in result.output.lower() or "unavailable" in result.output.lower()


@pytest.mark.parametrize("kind", ["http", "https", "tcp", "grpc"])
async def test_a_port_that_the_instance_does_not_have_is_a_result(kind: str) -> None:
    result = await run(check(kind, port="admin"), target(1))
    assert result == CheckResult(False, "the instance has no port called 'admin'")
    nowhere = CheckTarget("127.0.0.1", {}, _no_exec, _no_inspect)
    assert not (await run(check(kind), nowhere)).ok


@pytest.mark.parametrize("kind", ["http", "https", "grpc"])
async def test_silence_ends_at_the_timeout(kind: str) -> None:
    async with serving(silent) as port:
        result = await run(check(kind, timeout=0.3), target(port))
        assert result == CheckResult(False, "did not answer within 0.3 s")


@pytest.mark.parametrize(
    ("kind", "serve"), [(kind, serve) for kind in ("http", "https", "grpc") for serve in (closing, resetting)] + [("tcp", closing)]
)
async def test_a_hang_up_is_a_result(kind: str, serve: Serve) -> None:
    async with serving(serve) as port:
        assert not (await run(check(kind), target(port))).ok


@pytest.mark.parametrize("kind", ["http", "https", "grpc"])
async def test_cancelling_leaves_nothing_behind(kind: str) -> None:
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()

    async with serving(serve) as port:
        driver: CheckDriver = find_driver("check", kind)()
        running = asyncio.create_task(driver.run(check(kind, timeout=2), target(port)))
        await asyncio.wait_for(arrived.wait(), 5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


# -- http ------------------------------------------------------------------------------------------------------------


async def test_http_asks_what_the_check_says() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with serving(serve) as port:
        fields = {"path": "/ready?x=1", "method": "POST", "headers": {"Host": "example.org", "X-Probe": "yes"}}
        assert await run(check("http", **fields), target(port)) == CheckResult(True, "HTTP 204 No Content")
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "POST /ready?x=1 HTTP/1.1"
    assert {"host: example.org", "x-probe: yes", "connection: close"} <= set(lines)
    assert sum(line.startswith("host:") for line in lines) == 1


@pytest.mark.parametrize(
    ("status", "expect", "ok"),
    [(200, (), True), (302, (), True), (399, (), True), (400, (), False), (503, (), False), (503, (503,), True), (200, (204, 418), False)],
)
async def test_http_status(status: int, expect: tuple[int, ...], ok: bool) -> None:
    async with serving(answering(f"HTTP/1.1 {status} Whatever\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n".encode())) as port:
        result = await run(check("http", expect_status=expect), target(port))
        assert result.ok is ok
        assert f"HTTP {status}" in result.output


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
BODIES = {
    "length": OK,
    "until close": b"HTTP/1.0 200 OK\r\n\r\nhello",
    "chunked": CHUNKED,
    "after interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "no reason phrase": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("answer", BODIES.values(), ids=BODIES)
async def test_http_body(answer: bytes) -> None:
    async with serving(answering(answer, close=True)) as port:
        assert (await run(check("http", expect_body="^hel+o$"), target(port))).ok
        assert not (await run(check("http", expect_body="goodbye"), target(port))).ok


async def test_http_body_is_searched_in_its_first_64_kib_only() -> None:
    size = http_module.BODY_MAX
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {size * 100}\r\n\r\n".encode()
    async with serving(answering(head + b"x" * (size - 3) + b"end" + b"beyond")) as port:
        assert (await run(check("http", expect_body="xend$"), target(port))).ok
        assert not (await run(check("http", expect_body="beyond"), target(port))).ok


async def test_a_body_that_nobody_asked_for_is_not_waited_for() -> None:
    async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")) as port:
        assert (await run(check("http", timeout=0.5), target(port))).ok
        assert (await run(check("http", method="HEAD", expect_body="^$"), target(port))).ok


async def test_an_expression_that_backtracks_does_not_hold_up_the_loop() -> None:
    body = b"a" * 60_000 + b"b"
    async with serving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)) as port:
        begun = time.process_time()
        result = await run(check("http", expect_body="(a+)+$"), target(port))
        assert not result.ok
        assert "too long" in result.output
        assert time.process_time() - begun < 0.5


GARBAGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "binary": bytes(range(256)) + b"\n",
    "http/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\n",
    "status with letters": b"HTTP/1.1 2OO OK\r\n\r\n",
    "endless line": b"HTTP/1.1 200 " + b"x" * 200_000,
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"x: yyyyyyyy\r\n" * 20_000,
    "endless interim answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
    "cut in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_http_garbage_is_a_result(answer: bytes) -> None:
    async with serving(answering(answer, close=True)) as port:
        assert not (await run(check("http", expect_body="x"), target(port))).ok


BAD_BODIES = {
    "cut body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
    "huge length": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
    "cut chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhello",
    "overlong chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("answer", BAD_BODIES.values(), ids=BAD_BODIES)
async def test_http_broken_body_is_a_result(answer: bytes) -> None:
    async with serving(answering(answer, close=True)) as port:
        assert not (await run(check("http", expect_body="hello"), target(port))).ok


async def test_http_slow_drip_is_bounded_as_a_whole() -> None:
    async with serving(dripping(OK)) as port:
        assert (await run(check("http", timeout=0.4), target(port))).output == "did not answer within 0.4 s"


async def test_http_half_closed_is_still_answered() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        writer.write_eof()

    async with serving(serve) as port:
        assert (await run(check("http", expect_body="hello"), target(port))).ok


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=100).map(lambda end: b"HTTP/1.1 200 OK\r\n" + end)))
def test_http_any_answer_is_a_result(answer: bytes) -> None:
    async def once() -> None:
        async with serving(answering(answer, close=True)) as port:
            await run(check("http", expect_body="x"), target(port))

    asyncio.run(once())


async def test_a_host_header_that_is_no_name_is_a_result() -> None:
    async with serving(silent) as port:
        assert not (await run(check("https", headers={"Host": "a" * 100 + "..b"}), target(port))).ok


# -- https -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of localhost with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(pem + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


async def test_https_takes_any_certificate_unless_told_to_verify(tls: ssl.SSLContext) -> None:
    async with serving(answering(OK), tls) as port:
        assert (await run(check("https", expect_body="hello"), target(port))).ok
        result = await run(check("https", verify_tls=True), target(port))
        assert not result.ok
        assert "certificate" in result.output


async def test_https_verifies_against_the_system_and_the_host_header(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    http_module._verifying.cache_clear()
    try:
        async with serving(answering(OK), tls) as port:
            assert (await run(check("https", verify_tls=True), target(port))).ok
            assert (await run(check("https", verify_tls=True, headers={"Host": "localhost:8443"}), target(port))).ok
            result = await run(check("https", verify_tls=True, headers={"host": "elsewhere.example"}), target(port))
            assert not result.ok
            assert "elsewhere.example" in result.output
    finally:
        http_module._verifying.cache_clear()


async def test_https_to_a_server_without_tls_is_a_result() -> None:
    async with serving(answering(OK)) as port:
        assert not (await run(check("https", timeout=0.5), target(port))).ok


# -- tcp -------------------------------------------------------------------------------------------------------------


async def test_tcp_connects_to_silence_and_to_greetings() -> None:
    async def greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")

    for serve in (silent, greeting):
        async with serving(serve) as port:
            assert (await run(check("tcp"), target(port))).ok


async def test_tcp_sees_a_proxy_that_hangs_up_because_nobody_is_behind_it() -> None:
    async with serving(closing) as port:
        assert "at once" in (await run(check("tcp"), target(port))).output


# -- grpc ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def grpc_server(*, with_health: bool = True) -> AsyncIterator[tuple[int, HealthServicer]]:
    server = grpc.aio.server()
    servicer = HealthServicer()
    if with_health:
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port, servicer
    finally:
        await server.stop(0)


async def test_grpc_health() -> None:
    serving_status = health_pb2.HealthCheckResponse.ServingStatus
    async with grpc_server() as (port, servicer):
        assert (await run(check("grpc"), target(port))).ok
        await servicer.set("shop.Cart", serving_status.Value("NOT_SERVING"))
        result = await run(check("grpc", service="shop.Cart"), target(port))
        assert result == CheckResult(False, "gRPC health: NOT_SERVING")
        assert "shop.Other" in (await run(check("grpc", service="shop.Other"), target(port))).output


async def test_grpc_without_health_service_and_without_grpc() -> None:
    async with grpc_server(with_health=False) as (port, _):
        assert "no grpc.health.v1.Health" in (await run(check("grpc"), target(port))).output
    async with serving(answering(OK, close=True)) as port:
        assert not (await run(check("grpc"), target(port))).ok


async def test_grpc_answers_at_once_after_failures() -> None:
    """No back-off of an earlier run may delay a later one: launch times depend on it."""
    port = await closed_port()
    for _ in range(3):
        assert not (await run(check("grpc", timeout=5), target(port))).ok
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        begun = time.monotonic()
        assert (await run(check("grpc", timeout=5), target(port))).ok
        assert time.monotonic() - begun < 0.5
    finally:
        await server.stop(0)


# -- exec and docker -------------------------------------------------------------------------------------------------


def exec_target(code: int = 0, output: bytes = b"", error: Exception | None = None) -> CheckTarget:
    async def execute(argv: Sequence[str], limit: float) -> tuple[int, bytes]:
        assert (tuple(argv), limit) == (("/bin/probe", "--all"), 1.0)
        if error is not None:
            raise error
        return code, output

    return target(1, exec=execute)


async def test_exec() -> None:
    probe = check("exec", command=("/bin/probe", "--all"))
    assert await run(probe, exec_target(0)) == CheckResult(True, "exit code 0")
    assert await run(probe, exec_target(3, b"\x1b[31mdisk\xff\nfull\n")) == CheckResult(False, "exit code 3: [31mdisk\ufffd full")
    assert not (await run(probe, exec_target(1, b"x" * 10_000_000))).ok
    assert await run(probe, exec_target(error=LaunchRefused("no such command"))) == CheckResult(False, "no such command")
    assert await run(probe, exec_target(error=TimeoutError())) == CheckResult(False, "did not answer within 1 s")


async def test_a_runtime_that_does_not_answer_says_nothing_about_the_instance() -> None:
    async def inspect() -> AttemptStatus | None:
        raise DriverUnavailable("Docker does not answer")

    with pytest.raises(DriverUnavailable):
        await find_driver("check", "docker")().run(check("docker"), target(1, inspect=inspect))
    probe = check("exec", command=("/bin/probe", "--all"))
    with pytest.raises(DriverUnavailable):
        await find_driver("check", "exec")().run(probe, exec_target(error=DriverUnavailable("Docker does not answer")))


@pytest.mark.parametrize(
    ("health", "ok", "word"),
    [("healthy", True, "healthy"), ("unhealthy", False, "unhealthy"), ("starting", False, "starting"), ("", False, "no HEALTHCHECK")],
)
async def test_docker_passes_on_the_products_own_check(health: str, ok: bool, word: str) -> None:
    async def inspect() -> AttemptStatus | None:
        return AttemptStatus(AttemptKey("i", 1), AttemptState.RUNNING, "id", "/o/w/e/a", "hash", health=health)

    result = await run(check("docker"), target(1, inspect=inspect))
    assert result.ok is ok
    assert word in result.output


async def test_docker_of_an_instance_that_is_gone() -> None:
    async def inspect() -> AttemptStatus | None:
        return None

    assert not (await run(check("docker"), target(1, inspect=inspect))).ok
