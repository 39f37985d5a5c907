"""Checks over HTTP and HTTPS against real servers on loopback: all the ways in which an answer can be wrong."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gestalt.plugin.check import CheckResult
from gestalt.plugins.check import http as http_module
from tests.contracts.check_servers import OK, answering, check, dripping, run, serving, silent, target

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
        assert (await run(check("http", expect_body="^$").model_copy(update={"method": "HEAD"}), target(port))).ok


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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
