"""Tokens and certificates."""

import datetime as dt
import signal
import ssl
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raftflow.agent.config import AgentConfigError
from raftflow.agent.exchange.leader import LeaderClient, LeaderNotFoundError, RefusedError, StaleIncarnationError
from raftflow.domain.contract.views import PROBLEM_TYPE_PREFIX


class Authority:
    """Makes certificates."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
        self.file = self._write("ca", self._sign(self._name, self._key, authority=True))

    def issue(self, name: str) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._write(name, self._sign(subject, key, authority=False))
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._folder / f"{name}.key"
        path.touch(mode=0o600)
        path.write_bytes(encoded)
        return certificate, str(path)

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, authority: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self._folder / f"{name}.pem"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


async def test_agent_and_leader_know_each_other_by_certificates(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.load_cert_chain(*authority.issue("leader"))
    context.verify_mode = ssl.CERT_REQUIRED
    await leader.close()
    await leader.start(tls=context)
    certificate, key = authority.issue("agent")
    known = {"cacert": authority.file, "client_cert": certificate, "client_key": key}
    start_agent(peers=[f"https://127.0.0.1:{leader.port}"], token="open sesame", **known)
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert leader.tokens == {"Bearer open sesame"}


async def test_an_unknown_authority_is_no_leader(leader: Any, make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    ours, theirs = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*theirs.issue("leader"))
    await leader.close()
    await leader.start(tls=context)
    client = LeaderClient(make_config(peers=[f"https://127.0.0.1:{leader.port}"], cacert=ours.file, token="secret"))
    await client.start()
    with pytest.raises(LeaderNotFoundError, match="certificate"):
        await client.poll("a1", b"{}", 5)
    await client.close()
    assert not leader.tokens


def content_of(file: str) -> bytes:
    return Path(file).read_bytes()


def put(content: bytes, file: str) -> None:
    Path(file).write_bytes(content)


async def test_a_new_authority_counts_when_the_files_are_read_again(
    leader: Any, make_config: Any, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = Authority(tmp_path / "old"), Authority(tmp_path / "new")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*new.issue("leader"))
    await leader.close()
    await leader.start(tls=context)
    client = LeaderClient(make_config(peers=[f"https://127.0.0.1:{leader.port}"], cacert=old.file, token="secret"))
    await client.start()
    with pytest.raises(LeaderNotFoundError, match="certificate"):
        await client.poll("a1", b"{}", 5)
    put(b"not a certificate", old.file)
    client.certificates.reload()
    with pytest.raises(LeaderNotFoundError, match="certificate"):
        await client.poll("a1", b"{}", 5)
    put(content_of(new.file), old.file)
    client.certificates.reload(changed_only=True)
    with pytest.raises(LeaderNotFoundError, match="500"):  # the empty poll has arrived
        await client.poll("a1", b"{}", 5)
    await client.close()


async def test_sighup_does_not_end_an_agent(leader: Any, agent_process: Any) -> None:
    agent = agent_process()
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    agent.signal(signal.SIGHUP)
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"


async def test_certificates_that_cannot_be_read(make_config: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("no certificate")
    client = LeaderClient(make_config(cacert=str(tmp_path / "bad.pem")))
    with pytest.raises(AgentConfigError, match="cacert"):
        await client.start()


@pytest.mark.parametrize(
    ("status", "headers", "word", "error", "words"),
    [
        (503, {"Retry-After": "1"}, "no-leader", LeaderNotFoundError, "503"),
        (429, {"Retry-After": "3"}, "busy", LeaderNotFoundError, "429"),
        (409, {}, "stale-incarnation", StaleIncarnationError, "409"),
        (404, {}, "not-found", StaleIncarnationError, "404"),
        (401, {}, "unauthorized", RefusedError, "401"),
        (413, {}, "too-large", RefusedError, "what to do"),
        (307, {"Location": "http://127.0.0.1:1/v1/agents/a1/poll"}, "", LeaderNotFoundError, "127.0.0.1:1"),
        (307, {"Location": "ftp://somewhere/"}, "", LeaderNotFoundError, "not a replica's address"),
        (200, {}, "", LeaderNotFoundError, "not the contract's"),
    ],
)
async def test_what_answers_mean(  # noqa: PLR0917 - pytest names them
    make_config: Any, status: int, headers: dict[str, str], word: str, error: type[Exception], words: str
) -> None:
    async def answer(_: web.Request) -> web.Response:
        problem = {"type": PROBLEM_TYPE_PREFIX + word, "title": word, "status": status, "detail": "what to do"}
        return web.json_response(problem, status=status, headers=headers)

    app = web.Application()
    app.router.add_post("/v1/agents/a1/poll", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    client = LeaderClient(make_config(peers=[f"http://127.0.0.1:{port}"]))
    await client.start()
    with pytest.raises(error) as caught:
        await client.poll("a1", b"{}", 5)
    assert words in str(caught.value)
    if status == 429:
        assert caught.value.retry_after_s == 3.0  # type: ignore[attr-defined]
    await client.close()
    await runner.cleanup()


async def test_an_agent_takes_the_new_token_of_its_file(leader: Any, start_agent: Any, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text("old-token")
    start_agent(token_file=str(file))
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert leader.tokens == {"Bearer old-token"}
    file.write_text("new-token")
    leader.valid_tokens = {"Bearer new-token"}
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
    assert leader.tokens == {"Bearer old-token", "Bearer new-token"}
    assert len(leader.registrations) == 1
