"""The certificate authority: who gets what, what is kept, what is refused; TLS itself says whether it holds."""

from __future__ import annotations

import stat
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gestalt.config import TlsSettings
from gestalt.errors import GestaltError, Kind
from gestalt.pki import NODE_HOST, Authority, Identity, Pair, Role, identity_in, identity_of
from gestalt.rpc_server import RpcServer, channel_credentials, peer_identity

CLUSTER = "3d1c7a52-0d6c-4a59-9a2e-0c6b0e6f7d11"
ADMIN = Identity(CLUSTER, Role.USER, "admin")
COORDINATOR = Identity(CLUSTER, Role.COORDINATOR, "coordinator")


def coordinator_pair(authority: Authority) -> Pair:
    return authority.issue(COORDINATOR, "coordinator", dns=("localhost",), addresses=("127.0.0.1",))


def tls(authority: Authority, pair: Pair, ca: Path | None = None) -> TlsSettings:
    return TlsSettings(ca=ca or authority.certificate, certificate=pair.certificate, key=pair.key)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_for_their_owner_alone(tmp_path: Path) -> None:
    authority = Authority.ensure(tmp_path / "pki", CLUSTER)
    pair = authority.issue(ADMIN, "admin")
    assert [mode(path) for path in (tmp_path / "pki", tmp_path / "pki/ca.key", pair.key)] == [0o700, 0o600, 0o600]


def test_a_second_run_keeps_everything(tmp_path: Path) -> None:
    first = Authority.ensure(tmp_path, CLUSTER)
    made = [first.made, first.issue(ADMIN, "admin").made, coordinator_pair(first).made]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = Authority.ensure(tmp_path, CLUSTER)
    kept = [again.made, again.issue(ADMIN, "admin").made, coordinator_pair(again).made]
    assert (made, kept) == ([True] * 3, [False] * 3)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("lost", ["ca.crt", "admin.key", "admin.crt"])
def test_what_an_interruption_left_out_is_made_again(tmp_path: Path, lost: str) -> None:
    Authority.ensure(tmp_path, CLUSTER).issue(ADMIN, "admin")
    (tmp_path / lost).unlink()
    authority = Authority.ensure(tmp_path, CLUSTER)
    pair = authority.issue(ADMIN, "admin")
    certificate = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate.read_bytes()))
    assert identity_in(certificate) == ADMIN


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"])
def test_a_damaged_certificate_is_made_again(tmp_path: Path, damage: bytes) -> None:
    authority = Authority.ensure(tmp_path, CLUSTER)
    authority.issue(ADMIN, "admin").certificate.write_bytes(damage)
    assert authority.issue(ADMIN, "admin").made


def test_other_names_and_an_end_in_sight_mean_a_new_certificate(tmp_path: Path) -> None:
    authority = Authority.ensure(tmp_path, CLUSTER)
    coordinator_pair(authority)
    assert authority.issue(COORDINATOR, "coordinator", dns=("localhost", "elsewhere"), addresses=("127.0.0.1",)).made
    authority.issue(ADMIN, "admin", life=timedelta(days=29), renew_before=timedelta(0))
    assert authority.issue(ADMIN, "admin").made, "less than 30 days left"


def test_the_key_of_the_authority_cannot_be_replaced(tmp_path: Path) -> None:
    Authority.ensure(tmp_path, CLUSTER)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(GestaltError, match="not its key") as caught:
        Authority.ensure(tmp_path, CLUSTER)
    assert caught.value.kind is Kind.CONFLICT


def test_the_authority_of_another_cluster_is_refused(tmp_path: Path) -> None:
    Authority.ensure(tmp_path, CLUSTER)
    with pytest.raises(GestaltError, match="another cluster"):
        Authority.ensure(tmp_path, "another")


def test_users_cannot_be_servers(tmp_path: Path) -> None:
    authority = Authority.ensure(tmp_path, CLUSTER)
    certificate = x509.load_pem_x509_certificate(authority.issue(ADMIN, "admin").certificate.read_bytes())
    usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_identity_is_read_from_the_alternative_names() -> None:
    assert identity_of(["localhost", ADMIN.uri.encode(), "127.0.0.1"]) == ADMIN


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["localhost"],
        [f"gestalt://{CLUSTER}/root/me"],
        [f"gestalt://{CLUSTER}/user/"],
        [f"gestalt://{CLUSTER}/user/a/b"],
        [f"gestalt://{CLUSTER}/user/me\n"],
        [f"https://{CLUSTER}/user/me"],
        [ADMIN.uri, f"gestalt://{CLUSTER}/node/n"],
    ],
)
def test_no_clear_identity_is_none(names: list[str]) -> None:
    with pytest.raises(GestaltError) as caught:
        identity_of(names)
    assert caught.value.kind is Kind.UNAUTHENTICATED


def test_a_name_that_could_not_be_read_back_is_not_issued(tmp_path: Path) -> None:
    authority = Authority.ensure(tmp_path, CLUSTER)
    with pytest.raises(GestaltError):
        authority.issue(Identity(CLUSTER, Role.USER, "../node/x"), "admin")


class WhoAmI(grpc.GenericRpcHandler):
    """Answers any call with the caller's identity."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method != "/test/WhoAmI":
            return None

        async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:  # type: ignore[type-arg]
            return peer_identity(context).uri.encode()

        return grpc.unary_unary_rpc_method_handler(answer)


async def start_server(settings: TlsSettings) -> RpcServer:
    def register(server: grpc.aio.Server) -> list[str]:
        server.add_generic_rpc_handlers((WhoAmI(),))
        return ["test"]

    return await RpcServer.start("127.0.0.1:0", settings, register)


async def ask(port: int, credentials: grpc.ChannelCredentials) -> str:
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        return bytes(await channel.unary_unary("/test/WhoAmI")(b"", timeout=5)).decode()


async def test_the_server_knows_its_caller_and_nobody_else_gets_in(tmp_path: Path) -> None:
    authority, other = Authority.ensure(tmp_path / "ours", CLUSTER), Authority.ensure(tmp_path / "theirs", CLUSTER)
    server = await start_server(tls(authority, coordinator_pair(authority)))
    ours = authority.issue(ADMIN, "admin")
    try:
        assert await ask(server.port, channel_credentials(tls(authority, ours))) == ADMIN.uri
        strangers = {
            "no certificate": grpc.ssl_channel_credentials(authority.certificate.read_bytes()),
            "another CA": channel_credentials(tls(other, other.issue(ADMIN, "admin"), ca=authority.certificate)),
            "expired": channel_credentials(tls(authority, authority.issue(ADMIN, "late", life=timedelta(seconds=-1)))),
        }
        for who, credentials in strangers.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(server.port, credentials)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, who
    finally:
        await server.stop(0)


async def test_a_node_cannot_pose_as_the_coordinator(tmp_path: Path) -> None:
    authority = Authority.ensure(tmp_path, CLUSTER)
    node = authority.issue(Identity(CLUSTER, Role.NODE, "n1"), "node", dns=(NODE_HOST,))
    server = await start_server(tls(authority, node))
    try:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(server.port, channel_credentials(tls(authority, authority.issue(ADMIN, "admin"))))
    finally:
        await server.stop(0)


async def test_a_renewed_certificate_counts_without_a_restart(tmp_path: Path) -> None:
    authority = Authority.ensure(tmp_path, CLUSTER)
    short = authority.issue(COORDINATOR, "coordinator", addresses=("127.0.0.1",), life=timedelta(seconds=-1))
    server = await start_server(tls(authority, short))
    client = channel_credentials(tls(authority, authority.issue(ADMIN, "admin")))
    try:
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(server.port, client)
        assert coordinator_pair(authority).made
        assert await ask(server.port, client) == ADMIN.uri
    finally:
        await server.stop(0)


async def test_health_and_a_taken_port(tmp_path: Path) -> None:
    authority = Authority.ensure(tmp_path, CLUSTER)
    settings = tls(authority, coordinator_pair(authority))
    server = await start_server(settings)
    try:
        credentials = channel_credentials(tls(authority, authority.issue(ADMIN, "admin")))
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            service = health_pb2.HealthCheckRequest(service="test")
            assert (await check(service, timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
            await server.set_serving(serving=False)
            assert (await check(service, timeout=5)).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert (await check(health_pb2.HealthCheckRequest(), timeout=5)).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(GestaltError, match="cannot listen") as caught:
            await RpcServer.start(f"127.0.0.1:{server.port}", settings, lambda _: [])
        assert caught.value.kind is Kind.UNAVAILABLE
    finally:
        await server.stop(0)
