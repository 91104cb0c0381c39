"""Render the files of a cluster and write them: private, whole, and never over files that are there."""

from __future__ import annotations

import os
import secrets
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Final

import msgspec

from raftflow.authority.folder import CA_CERTIFICATES, CA_KEY, CRL, AuthorityError, AuthorityFolder
from raftflow.certified_names import REPLICA, CertifiedName
from raftflow.coordinator.config.addresses import parse_address
from raftflow.coordinator.config.loading import load_config
from raftflow.coordinator.config.replica_config import Tls
from raftflow.domain.values.ids import name_problem
from raftflow.private_files import PrivateFileError, make_private_folder, write_private
from raftflow.provision.hosts import Host, ProvisionError
from raftflow.provision.reference import help_comments

SECRET: Final = "secret"  # noqa: S105 - the name of a file
TOKEN: Final = "token"  # noqa: S105 - the name of a file
CLIENT: Final = "client.env"
_SECRET_BYTES: Final = 32
_JOIN: Final = """\
# This replica starts on an empty disk and joins a cluster. Later starts ignore this line.
join = true
"""
_FILE_MODE: Final = 0o600


class ClusterPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the files of a cluster say."""

    cluster_id: str
    hosts: tuple[Host, ...]
    data_dir: str = "/var/lib/raftflow"
    """Absolute, on every machine: data of the replica and work directory of the agent lie below it."""
    certificates: bool = False
    """Whether everything travels encrypted, with certificates of an authority of its own."""

    @property
    def names(self) -> list[str]:
        """Names of the replicas, in the order of the hosts."""
        return [f"n{number}" for number in range(1, len(self.hosts) + 1)]

    @property
    def peers(self) -> list[str]:
        """URLs for clients and agents."""
        return [f"{self.scheme}://{host.api}" for host in self.hosts]

    @property
    def scheme(self) -> str:
        """Of the URLs."""
        return "https" if self.certificates else "http"


def render(plan: ClusterPlan) -> dict[str, str]:
    """Return name and content of each file that holds nothing private."""
    pairs = list(zip(plan.names, plan.hosts, strict=True))
    members = _members([(name, host.api, host.peer) for name, host in pairs], plan.scheme)
    count = len(plan.hosts)
    note = f"The cluster serves as long as {count // 2 + 1} of its {count} replicas run and reach each other."
    files = {
        f"{name}.toml": _coordinator(
            name, host, plan.cluster_id, members, plan.data_dir, note=note, certificates=plan.certificates
        )
        for name, host in pairs
    }
    peers = "".join(f'  "{url}",\n' for url in plan.peers)
    files["agent.toml"] = _template("agent.toml").substitute(help_comments(), peers=peers, data_dir=plan.data_dir)
    return files


def _members(entries: Iterable[tuple[str, object, object]], scheme: str = "http") -> str:
    return "\n".join(
        _template("member.toml").substitute(name=name, peer=peer, url=f"{scheme}://{api}")
        for name, api, peer in entries
    )


def _coordinator(
    name: str,
    host: Host,
    cluster_id: str,
    members: str,
    data_dir: str,
    *,
    note: str,
    join: bool = False,
    certificates: bool = False,
) -> str:
    return _template("coordinator.toml").substitute(
        help_comments(),
        name=name,
        note=note,
        cluster_id=cluster_id,
        members=members,
        data_dir=data_dir,
        tls="" if certificates else "# ",
        join=_JOIN if join else "",
        bind=host.api._replace(host=host.listen),
        peer_bind=host.peer._replace(host=host.listen),
    )


def write_joining(directory: Path, name: str, host: Host) -> str:
    """Write the file of a replica that joins the cluster whose files are in a directory; returns the file's name.

    It lists the members of an existing file and itself. Raises `ProvisionError` if the name, the address or the file
    is taken, or if the directory holds no file of a replica, and `ConfigError` if that file is wrong.
    """
    if wrong := name_problem(name):
        raise ProvisionError(f"{name!r} {wrong}")
    file = next((path for path in sorted(directory.glob("*.toml")) if _is_replica(path)), None)
    if file is None:
        raise ProvisionError(
            f"{directory} has no file of a replica, such as n1.toml; choose its directory with --dir"
        )
    config = load_config(file, environ={})
    if config.tls != Tls() or any(not member.url.startswith("http://") for member in config.members):
        raise ProvisionError(
            f"{file} uses certificates: copy it, and change [[cluster.members]], [replica] and [tls]"
        )
    if os.path.lexists(directory / f"{name}.toml") or any(member.name == name for member in config.members):
        raise ProvisionError(f"{name} is the name of a replica already; a new replica needs a new name")
    for member in config.members:
        if {host.api, host.peer} & {member.peer, parse_address(member.url.removeprefix("http://"), "url")}:
            raise ProvisionError(f"{host.api} is the address of {member.name}; give the host of the new machine")
    members = _members(
        [*((each.name, each.url.removeprefix("http://"), each.peer) for each in config.members),
         (name, host.api, host.peer)]
    )  # fmt: skip
    note = "It joins a cluster that runs: start it, then give `raftflow member add`."
    data_dir = str(config.data_dir.parent)
    content = _coordinator(name, host, config.cluster_id, members, data_dir, note=note, join=True)
    try:
        write_private(directory / f"{name}.toml", content)
    except OSError as error:
        raise ProvisionError(f"{error.filename or directory} cannot be written: {error.strerror}") from error
    return f"{name}.toml"


def _is_replica(file: Path) -> bool:
    try:
        return "replica" in tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False


def client_settings(peers: Sequence[str], token: str | None, authority: Path | None = None) -> str:
    """Return the content of `client.env`: a shell that reads it knows the cluster and its token, if it has one.

    `authority` is the file with the authorities that have signed the certificates of the cluster, if it has some.
    """
    settings = _template(CLIENT).substitute(peers=shlex.quote(",".join(peers)))
    if authority is not None:
        settings += f"export RAFTFLOW_CACERT={shlex.quote(str(authority.absolute()))}\n"
    return settings + (f"export RAFTFLOW_TOKEN={shlex.quote(token)}\n" if token else "unset RAFTFLOW_TOKEN\n")


def write(plan: ClusterPlan, directory: Path, *, force: bool = False) -> list[str]:
    """Write all files of a cluster into a private directory, and return their names.

    With `force` the files are written again; the secret and the token that are there stay as they are, since
    machines of the cluster may use them. Raises `ProvisionError` if files are there already, if others may enter the
    directory, or if it cannot be written.
    """
    files = render(plan)
    try:
        make_private_folder(directory, "the secret and the token")
        found = [name for name in (*files, SECRET, TOKEN, CLIENT) if os.path.lexists(directory / name)]
        if found and not force:
            raise ProvisionError(
                f"{directory} already contains {', '.join(found)}: nothing was written. Choose another directory, or "
                "give --force to write the configuration again (secret and token stay)"
            )
        kept = {name: _kept(directory / name) for name in (SECRET, TOKEN) if name in found}
        token = kept.get(TOKEN) or secrets.token_hex(_SECRET_BYTES)
        private = {SECRET: kept.get(SECRET) or secrets.token_hex(_SECRET_BYTES), TOKEN: token}
        private = {name: f"{text}\n" for name, text in private.items() if name not in kept}
        authority = directory / CA_CERTIFICATES if plan.certificates else None
        files |= private | {CLIENT: client_settings(plan.peers, token, authority)}
        if plan.certificates:
            files |= _certificates(plan, directory)
        for name, content in files.items():
            write_private(directory / name, content)
    except (PrivateFileError, AuthorityError) as error:
        raise ProvisionError(str(error)) from error
    except OSError as error:
        raise ProvisionError(f"{error.filename or directory} cannot be written: {error.strerror}") from error
    return [*(name for name in files if name not in private), SECRET, TOKEN]


def authority_folder(directory: Path) -> Path:
    """Return the folder of the authority of a cluster: beside its files, since no machine of the cluster has it."""
    return directory.with_name(f"{directory.name}-ca")


def _certificates(plan: ClusterPlan, directory: Path) -> dict[str, str]:
    """Make the authority, or use the one that is there, and return the files that replicas need of it.

    Replicas without a valid certificate get one.
    """
    folder = AuthorityFolder(authority_folder(directory))
    if not (folder.path / CA_KEY).exists():
        folder.create()
    valid = {line.name for line in folder.issued() if line.state in {"valid", "ends soon"}}
    for name, host in zip(plan.names, plan.hosts, strict=True):
        if name not in valid:
            hosts = dict.fromkeys((host.host, "localhost", "127.0.0.1"))
            folder.issue(CertifiedName(REPLICA, name), tuple(hosts))
    files = [CA_CERTIFICATES, CRL, *(f"{name}.{kind}" for name in plan.names for kind in ("pem", "key"))]
    return {file: (folder.path / file).read_text(encoding="ascii") for file in files}


def _template(name: str) -> Template:
    return Template(resources.files(__package__).joinpath("templates", name).read_text(encoding="ascii"))


def _kept(path: Path) -> str:
    """Return the secret or token that is there already, and close it to others."""
    if path.is_symlink() or not path.is_file():
        raise ProvisionError(f"{path} is not a regular file; remove it, or choose another directory with --dir")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
        raise ProvisionError(f"{path} is too short or not printable; remove it, and a new one is made")
    path.chmod(_FILE_MODE)
    return text
