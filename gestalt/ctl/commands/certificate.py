"""cluster certificate: certificates for users, made where the authority is."""

from __future__ import annotations

from pathlib import Path

import click

from gestalt.ctl.options import examples, output_option
from gestalt.ctl.output import emit
from gestalt.errors import GestaltError, Kind


@click.command(
    epilog=examples("gestaltctl cluster certificate admin", "gestaltctl cluster certificate alice --out /root/alice"),
)
@click.argument("user")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where to.  [default: /etc/gestalt/pki]")
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), default=Path("/"), show_default=True, help="Folder of etc and var."
)
@output_option
def certificate(user: str, out: Path | None, root: Path, output: str) -> None:
    """Make a certificate for a user, good for a year, on a coordinator's machine.

    Makes DIR/USER.crt and DIR/USER.key. A pair that is good for another 30 days is kept. No coordinator need run.
    """
    from gestalt.cluster.issuing import issue_user
    from gestalt.cluster.layout import ClusterLayout
    from gestalt.config import CoordinatorSettings
    from gestalt.settings_file import load_settings

    try:
        settings = load_settings(ClusterLayout(root.resolve()).coordinator_settings, CoordinatorSettings)
        pair = issue_user(settings, user, out)
    except OSError as error:
        hint = "run this with sudo, or choose another --out"
        raise GestaltError(Kind.REFUSED, f"{error.filename} cannot be used: {error.strerror}", hint=hint) from error
    word = "made" if pair.made else "kept"
    emit(
        output,
        lambda: {"certificate": str(pair.certificate), "key": str(pair.key), "made": pair.made},
        lambda: [str(pair.certificate)],
        lambda _: print(f"{word}  {pair.certificate}\n{word}  {pair.key}"),
    )
