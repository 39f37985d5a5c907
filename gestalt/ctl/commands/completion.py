"""completion: the script that teaches a shell to complete gestaltctl."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gestalt.ctl.options import examples


@click.command(
    epilog=examples(
        "source <(gestaltctl completion bash)",
        "gestaltctl completion bash > /etc/bash_completion.d/gestaltctl",
        'gestaltctl completion zsh > "${fpath[1]}/_gestaltctl"',
        "gestaltctl completion fish > ~/.config/fish/completions/gestaltctl.fish",
    )
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, and the names of apps and instances, which it asks of the coordinator.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "gestaltctl", "_GESTALTCTL_COMPLETE")
    print(script.source_template % script.source_vars())
