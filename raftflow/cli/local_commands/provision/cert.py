"""`raftflow cert`: an authority of your own, and the certificates that it issues."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from raftflow.certified_names import CERTIFIED_ROLES, CertifiedName
from raftflow.cli.terminal.groups import CommandGroup
from raftflow.cli.terminal.options import Duration, output_option
from raftflow.cli.terminal.output import echo, print_items

if TYPE_CHECKING:
    from raftflow.authority.folder import AuthorityFolder

_C = TypeVar("_C", bound=Callable[..., object])


def _dir_option(command: _C) -> _C:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path),
        default=Path("raftflow-ca"),
        show_default=True,
        help="The private folder of the authority.",
    )(command)


def _valid_option(default: str) -> Callable[[_C], _C]:
    return click.option("--valid", "valid_s", type=Duration(), help=f"How long it is valid.  [default: {default}]")


def _folder(directory: Path) -> AuthorityFolder:
    from raftflow.authority.folder import AuthorityFolder  # noqa: PLC0415 - heavy

    return AuthorityFolder(directory)


def _span(valid_s: float | None, default: timedelta) -> timedelta:
    return default if valid_s is None else timedelta(seconds=valid_s)


@click.group(cls=CommandGroup)
def cert() -> None:
    """Certificates of a cluster, by an authority of your own: init, issue, renew, list, revoke, refresh."""


@cert.command()
@_dir_option
@_valid_option("3650d")
@click.option("--rotate", is_flag=True, help="Make a new authority beside the old one; both are trusted then.")
@click.option("--finish", is_flag=True, help="End a rotation: trust the old authority no more.")
def init(directory: Path, valid_s: float | None, rotate: bool, finish: bool) -> None:
    """Make an authority in a private folder: its key, its certificate, and an empty list of revoked certificates.

    Its key stays in the folder. With the key one can be anybody in the cluster, so keep the folder away from the
    machines of the cluster.
    """
    from raftflow.authority.folder import AUTHORITY_VALID  # noqa: PLC0415 - heavy

    if rotate and finish:
        raise click.UsageError("--rotate begins a rotation and --finish ends it: give one of them")
    folder = _folder(directory)
    if finish:
        if valid_s is not None:
            raise click.UsageError("--valid is for a new authority; --finish makes none")
        folder.finish()
        echo(f"the old authority is gone from {directory / 'ca.pem'}; hand that file out again")
    elif rotate:
        folder.rotate(_span(valid_s, AUTHORITY_VALID))
        echo(f"a new authority signs from now on; {directory / 'ca.pem'} has both")
        echo("\nNext steps:")
        echo(f"1. Renew all certificates: raftflow cert renew --all --dir {directory}")
        echo("2. Hand out ca.pem and the new files, to one machine after the other, in any order.")
        echo(f"3. When all have them: raftflow cert init --finish --dir {directory}, and hand out ca.pem again.")
    else:
        folder.create(_span(valid_s, AUTHORITY_VALID))
        echo(f"wrote {directory}: ca.pem ca.key crl.pem")


@cert.command()
@click.argument("name", metavar="NAME")
@click.option("--role", type=click.Choice(CERTIFIED_ROLES), required=True, help="What its holder may do.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="HOST",
    help="With role replica: a name or an address at which it is reached. Can be given several times.",
)
@_dir_option
@_valid_option("30d")
def issue(name: str, role: str, hosts: tuple[str, ...], directory: Path, valid_s: float | None) -> None:
    """Issue a certificate to NAME, with a new key: the files NAME.pem and NAME.key.

    A replica has the NAME of its configuration, an agent its own. A client may have any name: the audit shows it.
    """
    from raftflow.authority.folder import LEAF_VALID  # noqa: PLC0415 - heavy

    _folder(directory).issue(CertifiedName(role, name), hosts, _span(valid_s, LEAF_VALID))
    echo(f"wrote {directory}: {name}.pem {name}.key")


@cert.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everybody", is_flag=True, help="Everybody who has a valid certificate.")
@_dir_option
@_valid_option("as long as before")
def renew(names: tuple[str, ...], everybody: bool, directory: Path, valid_s: float | None) -> None:
    """Issue new certificates, with new keys, for the same names. The old ones stay valid until they end."""
    if everybody == bool(names):
        raise click.UsageError("give NAMEs, or --all")
    renewed = _folder(directory).renew(names, None if valid_s is None else timedelta(seconds=valid_s))
    echo(f"wrote {directory}: {' '.join(f'{name}.pem {name}.key' for name in renewed)}")


@cert.command()
@_dir_option
def refresh(directory: Path) -> None:
    """Sign the list of revoked certificates again. It is fresh for 30 days."""
    _folder(directory).refresh_list()
    echo(f"wrote {directory / 'crl.pem'}; hand it out to the replicas")


@cert.command("list")
@click.option("--all", "everything", is_flag=True, help="Also those that have expired or were revoked.")
@_dir_option
@output_option
def list_(everything: bool, directory: Path, output: str) -> None:
    """List what was issued, and what of it ends soon: less than a third of its time is left."""
    lines = _folder(directory).issued()
    chosen = [line for line in lines if everything or line.state in {"valid", "ends soon"}]
    print_items(
        output,
        chosen,
        {"name": "name", "role": "role", "state": "state", "valid until": "not_after", "serial": "serial"},
    )


@cert.command()
@click.argument("name", metavar="NAME|SERIAL")
@_dir_option
def revoke(name: str, directory: Path) -> None:
    """Revoke every certificate of NAME, or the one with a serial number.

    Replicas refuse it within a second after they have the new crl.pem.
    """
    count = _folder(directory).revoke(name)
    echo(f"revoked {count} certificate{'s' if count != 1 else ''} of {name}; hand out {directory / 'crl.pem'}")
