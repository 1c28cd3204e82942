"""`smdaemon completion`: completion for bash, zsh and fish, written from the commands themselves."""

from typing import Annotated, Literal

from cyclopts import Parameter

Shell = Literal["bash", "zsh", "fish"]


def completion(
    shell: Annotated[Shell, Parameter(help="The shell to complete in.")],
    /,
    *,
    install: Annotated[
        bool, Parameter(negative="", help="Write it where the shell looks for it, in place of printing it.")
    ] = False,
) -> None:
    """Print or install shell completion."""
    from smdaemon.cli.main import make_app

    app = make_app()
    if install:
        path = app.install_completion(shell=shell, add_to_startup=False)
        print(f"written to {path}")
    else:
        print(app.generate_completion(prog_name="smdaemon", shell=shell), end="")
