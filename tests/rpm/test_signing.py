"""Packages that are signed while they are built, by a key that is made for the test."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from gestalt import shell
from tests.cluster.lab.nodes import CHECKOUT, can_run

from .conftest import Built
from .machine import OUT

pytestmark = [
    pytest.mark.rpm,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(not can_run(), reason="what signed packages are compared with is built for lab nodes, which need root"),
    pytest.mark.skipif(
        any(shutil.which(program) is None for program in ("rpmbuild", "rpmsign", "gpg", "strace")),
        reason="rpmbuild, rpmsign, gpg or strace is not installed: scripts/install-packages rpm; scripts/install-packages test",
    ),
]

NAME = "Gestalt packages of a test"
PASSPHRASE = "as-long-as-a-sentence-4711"
SAME = "%{NAME} %{SHA256HEADER} %{PAYLOADDIGEST}\\n"


async def do(*argv: str, env: dict[str, str] | None = None, limit: float = 60.0) -> str:
    """Run a command that must succeed; return what it printed."""
    done = await shell.run(argv, limit=limit, env=env, cwd=str(CHECKOUT))
    assert done.ok, f"{argv[0]}: {done.complaint()}"
    return done.stdout.decode()


@dataclass(frozen=True, slots=True)
class Key:
    """A key with a passphrase, that gpg's agent does not know."""

    home: Path
    passphrase: Path
    fingerprint: str

    @property
    def environment(self) -> dict[str, str]:
        return {"GNUPGHOME": str(self.home), "RPM_SIGN_KEY": NAME, "RPM_SIGN_PASSPHRASE_FILE": str(self.passphrase)}


@pytest_asyncio.fixture(loop_scope="session")
async def key(tmp_path: Path) -> AsyncIterator[Key]:
    home, passphrase = tmp_path / "gnupg", tmp_path / "passphrase"
    home.mkdir(mode=0o700)
    passphrase.write_text(PASSPHRASE, encoding="ascii")
    unattended = ("gpg", "--batch", "--pinentry-mode", "loopback", "--passphrase-file", str(passphrase))
    await do(*unattended, "--quick-generate-key", NAME, "rsa2048", "sign", "never", env={"GNUPGHOME": str(home)})
    listed = await do("gpg", "--batch", "--with-colons", "--list-keys", NAME, env={"GNUPGHOME": str(home)})
    found = Key(home, passphrase, next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr")).lower())
    await do(
        "gpgconf", "--reload", "gpg-agent", env=found.environment
    )  # it forgets, and runs on: started by what is traced, it would be waited for
    yield found
    await do("gpgconf", "--kill", "gpg-agent", env=found.environment)


async def test_packages_are_signed_by_the_key_and_else_the_same(key: Key, built: Built, tmp_path: Path) -> None:
    out, calls = CHECKOUT / f"{OUT}-signed", tmp_path / "calls"
    settings = {**key.environment, "RPM_RELEASE": "1", "RPM_OUT": str(out)}
    traced = ("strace", "-f", "--seccomp-bpf", "-e", "trace=execve", "-s", "10000", "-v", "-o", str(calls))
    try:
        await do(*traced, "scripts/rpm.sh", "rpm", env=settings, limit=400)
        signed, unsigned = sorted(map(str, out.glob("*.rpm"))), sorted(map(str, [*built.first, *built.selinux]))
        assert [Path(path).name for path in signed] == [Path(path).name for path in unsigned]
        started = calls.read_text(encoding="utf-8", errors="replace")
        assert "gpg" in started
        assert PASSPHRASE not in started
        database = ("rpm", "--dbpath", str(tmp_path / "rpmdb"))
        strange = await shell.run((*database, "--checksig", "-v", signed[0]), limit=60)
        assert not strange.ok
        assert "NOKEY" in strange.stdout.decode()
        await do("gpg", "--batch", "--armor", "--export", "--output", str(tmp_path / "key.asc"), NAME, env=key.environment)
        await do(*database, "--import", str(tmp_path / "key.asc"))
        for path in signed:
            said = await do(*database, "--checksig", "-v", path)
            by = [line for line in said.splitlines() if "ignature" in line and key.fingerprint[-8:] in line]
            assert by, said
            assert all(line.endswith(": OK") for line in by), said
        assert await do("rpm", "-qp", "--nosignature", "--queryformat", SAME, *signed) == await do(
            "rpm", "-qp", "--queryformat", SAME, *unsigned
        )
    finally:
        shutil.rmtree(out, ignore_errors=True)


async def test_a_key_that_is_not_there_is_told_before_anything_is_built(key: Key, tmp_path: Path) -> None:
    missing = {**key.environment, "RPM_SIGN_KEY": "nobody@example.com", "RPM_OUT": str(tmp_path)}
    done = await shell.run(("scripts/rpm.sh", "rpm"), limit=60, env=missing, cwd=str(CHECKOUT))
    assert "no secret key of RPM_SIGN_KEY=nobody@example.com" in done.stderr.decode()
    unreadable = {**key.environment, "RPM_SIGN_PASSPHRASE_FILE": str(tmp_path / "none"), "RPM_OUT": str(tmp_path)}
    done = await shell.run(("scripts/rpm.sh", "rpm"), limit=60, env=unreadable, cwd=str(CHECKOUT))
    assert "RPM_SIGN_PASSPHRASE_FILE" in done.stderr.decode()
    assert [path for path in tmp_path.iterdir() if path.suffix == ".rpm"] == []
