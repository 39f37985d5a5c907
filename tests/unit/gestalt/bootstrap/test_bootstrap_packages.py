"""What packages say of themselves, which of them a host gets, and what is told of a host that ssh does not reach."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from gestalt.bootstrap.hosts_file import HostSettings, SshSettings
from gestalt.bootstrap.packages import chosen, find_packages
from gestalt.bootstrap.rpm_header import read_header
from gestalt.bootstrap.ssh import Remote, first_words, unusable, user_number
from gestalt.errors import GestaltError, Kind
from gestalt.shell import Completed


def section(strings: dict[int, list[str]]) -> bytes:
    entries, store = b"", b""
    for tag, values in strings.items():
        entries += struct.pack(">IIII", tag, 8, len(store), len(values))
        store += b"".join(value.encode() + b"\0" for value in values)
    return b"\x8e\xad\xe8\x01\0\0\0\0" + struct.pack(">II", len(strings), len(store)) + entries + store


def package(name: str, version: str = "1.0", architecture: str = "noarch") -> bytes:
    signature = section({269: ["abc"]})
    header = section({1000: [name], 1001: [version], 1002: ["2"], 1022: [architecture], 1049: ["rtld", "/usr/bin/python3.12", "x"]})
    return b"\xed\xab\xee\xdb".ljust(96, b"\0") + signature + bytes(-len("abc\0") % 8) + header


def test_a_header_is_read_and_one_that_is_cut_off_anywhere_refused() -> None:
    whole = package("gestalt-runtime", architecture="x86_64")
    found = read_header(io.BytesIO(whole))
    assert (found.name, found.version, found.release, found.architecture) == ("gestalt-runtime", "1.0", "2", "x86_64")
    assert found.requires == ("rtld", "/usr/bin/python3.12", "x")
    for size in range(len(whole)):
        with pytest.raises(ValueError, match="it"):
            read_header(io.BytesIO(whole[:size]))


def fill(folder: Path, **packages: bytes) -> None:
    for name, content in packages.items():
        (folder / f"gestalt-{name}.rpm").write_bytes(content)


def test_a_folder_gives_each_host_what_it_needs(tmp_path: Path) -> None:
    fill(
        tmp_path,
        runtime=package("gestalt-runtime", architecture="x86_64"),
        ctl=package("gestaltctl"),
        agent=package("gestalt-agent"),
        coordinator=package("gestalt-coordinator"),
        selinux=package("gestalt-selinux"),
    )
    found = find_packages([tmp_path])
    assert {item.python for item in found if item.name == "gestalt-runtime"} == {"3.12"}
    names = [item.name for item in chosen(found, "x86_64", is_coordinator=False, has_selinux=False)]
    assert names == ["gestalt-runtime", "gestaltctl", "gestalt-agent"]
    assert len(chosen(found, "x86_64", is_coordinator=True, has_selinux=True)) == 5
    with pytest.raises(GestaltError, match="no package gestalt-runtime for aarch64"):
        chosen(found, "aarch64", is_coordinator=False, has_selinux=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (package("gestaltctl"), "there are two of gestaltctl"),
        (package("gestalt-agent", "2.0"), "of several versions: gestalt"),
        (b"nothing", "is not a package: it does not begin as one"),
    ],
)
def test_packages_that_do_not_fit_together_are_refused(tmp_path: Path, content: bytes, said: str) -> None:
    fill(tmp_path, first=package("gestaltctl"), second=content)
    with pytest.raises(GestaltError, match=said) as caught:
        find_packages([tmp_path])
    assert caught.value.kind is Kind.INVALID


def test_a_host_that_ssh_does_not_reach_is_told_in_its_words_with_what_to_do() -> None:
    host = HostSettings(name="one", address="10.0.0.1", ssh="one.example.com")
    error = unusable(host, "root@one.example.com: Permission denied (publickey).")
    assert "one.example.com cannot be used by ssh: root@one.example.com: Permission denied" in error.message
    assert error.hint.startswith("have your key accepted there: ssh-copy-id one.example.com")
    assert unusable(host, "").hint == "try it by hand: ssh one.example.com"


@pytest.mark.parametrize("word", ["Welcome to one", "0 users", "\x1b[2J0", "²"])
def test_a_host_that_greets_before_it_answers_is_refused(word: str) -> None:
    host = HostSettings(name="one", address="10.0.0.1")
    assert user_number("1000", host) == "1000"
    with pytest.raises(GestaltError) as caught:
        user_number(word, host)
    assert caught.value.kind is Kind.UNAVAILABLE
    assert f"says something else first: {word!r}" in caught.value.message
    assert "ssh 10.0.0.1 id -u" in caught.value.hint


@pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's client")
def test_the_shared_connection_ends_with_us_whatever_the_operator_is_used_to(tmp_path: Path) -> None:
    """ssh itself says what it makes of our words and the operator's configuration."""
    (tmp_path / "config").write_text("Host *\n  ControlMaster auto\n  ControlPersist yes\n")
    words = first_words(HostSettings(name="one", address="10.0.0.1"), SshSettings(config=tmp_path / "config"), tmp_path / "socket")
    asked = subprocess.run((words[0], "-G", *words[1:]), capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    assert {"controlmaster true", "controlpersist no", f"controlpath {tmp_path}/socket"} <= set(asked)


@pytest.mark.parametrize(
    ("is_root", "code", "what", "hint"),
    [
        (False, 1, "does not become root by `sudo -n`: nein", "let this user run every command there by sudo, and without a password"),
        (False, 127, "does not become root by `sudo -n`: nein", "install sudo there; or connect as root"),
        (True, 1, "h cannot be used by ssh: nein", "try it by hand: ssh h"),
        (False, 255, "h cannot be used by ssh: nein", "try it by hand: ssh h"),
    ],
)
def test_a_host_where_we_are_not_root_is_told_in_whatever_language_sudo_speaks(is_root: bool, code: int, what: str, hint: str) -> None:
    host = HostSettings(name="h", address="10.0.0.1", ssh="h")
    error = Remote(host, (), is_root=is_root).disobeyed(Completed(("sh",), code, b"", b"nein\n"))
    assert (error.kind, what in error.message, hint in error.hint) == (Kind.UNAVAILABLE, True, True)
