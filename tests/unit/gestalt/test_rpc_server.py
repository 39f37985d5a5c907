"""A server's certificate: handed to gRPC when it is new, and only then."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gestalt.config import TlsSettings
from gestalt.errors import GestaltError, Kind
from gestalt.pki import Authority, Identity, Role
from gestalt.rpc_server import _TlsFiles, channel_credentials, server_credentials

CLUSTER = "9f0c1a52-6a30-4a51-9a52-4d8e1f0a7b11"


@pytest.fixture
def tls(tmp_path: Path) -> TlsSettings:
    authority = Authority.ensure(tmp_path, CLUSTER)
    pair = authority.issue(Identity(CLUSTER, Role.COORDINATOR, "one"), "one", dns=["localhost"])
    return TlsSettings(ca=authority.certificate, certificate=pair.certificate, key=pair.key)


def test_files_that_did_not_change_are_not_handed_over_again(tls: TlsSettings) -> None:
    """gRPC takes over without a lock whatever it is handed, for each connection: many at once ended the process."""
    files = _TlsFiles(tls)
    assert [files.renewed(), files.renewed()] == [None, None]


def test_renewed_files_are_handed_over_once(tls: TlsSettings) -> None:
    files = _TlsFiles(tls)
    os.utime(tls.certificate, ns=(1, 1))
    assert files.renewed() is not None
    assert files.renewed() is None


def test_files_that_cannot_be_read_change_nothing(tls: TlsSettings) -> None:
    files = _TlsFiles(tls)
    tls.key.unlink()
    assert files.renewed() is None


@pytest.mark.parametrize("name", ["ca", "certificate", "key"])
@pytest.mark.parametrize("use", [server_credentials, channel_credentials])
def test_files_that_cannot_be_read_are_no_mistake_of_the_settings(
    use: Callable[[TlsSettings], object], name: str, tls: TlsSettings
) -> None:
    """What they lie on may be mounted in a moment: a daemon that ends so is started again."""
    file: Path = getattr(tls, name)
    file.rename(file.with_suffix(".away"))
    with pytest.raises(GestaltError, match=f"{file} cannot be read: ") as caught:
        use(tls)
    assert (caught.value.kind, caught.value.hint) == (Kind.NOT_FOUND, "see the section tls of the settings")
    file.with_suffix(".away").rename(file)
    use(tls)
