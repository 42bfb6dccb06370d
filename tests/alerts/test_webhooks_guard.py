"""What a webhook may reach, and what it does when a name leads elsewhere. No real DNS: the resolver is given."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpcore
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from alerts.addresses import is_public
from alerts.clients.webhooks import WebhookSender
from alerts.domain import Answer
from tests.alerts.receiver import Receiver, answering, running

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "168.63.129.16",
    "224.0.0.1",
    "224.0.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",  # IPv4-compatible 127.0.0.1
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:168.63.129.16",
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "64:ff9b::a9fe:a9fe",  # NAT64 of 169.254.169.254
    "64:ff9b:1::7f00:1",  # local NAT64
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a00:1::1",  # 6to4 of 10.0.0.1
    "2001::1",  # Teredo
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "not an address",
    "",
]
PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "2606:4700:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_known(address: str) -> None:
    assert is_public(address)


class Names:
    """A resolver that knows what it is told, and remembers what it was asked."""

    def __init__(self, **addresses: Sequence[str]) -> None:
        self.addresses = {name.replace("_", "."): found for name, found in addresses.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return self.addresses[host]


class Wire(httpcore.AsyncNetworkBackend):
    """A network on which every address is the same server on loopback; remembers what was connected to."""

    def __init__(self, port: int, *, dead: Sequence[str] = ()) -> None:
        self._port, self._dead = port, dead
        self._network = httpcore.AnyIOBackend()
        self.connected: list[str] = []

    async def connect_tcp(self, host: str, port: int, timeout: Any = None, *_: Any, **__: Any) -> Any:
        self.connected.append(host)
        if host in self._dead:
            raise httpcore.ConnectError("nobody there")
        return await self._network.connect_tcp("127.0.0.1", self._port, timeout=timeout)


def post(
    url: str, names: Names, wire: Wire, *, tls: ssl.SSLContext | None = None, may_be_private: bool = False
) -> Answer:
    sender = WebhookSender(may_be_private=may_be_private, resolve=names, network=wire, tls=tls)
    return asyncio.run(sender.post(url, headers={"webhook-id": "msg_1"}, body=b"{}"))


class TestNames:
    """Plain HTTP is refused beside the guard, so these stop before TLS."""

    @pytest.mark.parametrize(
        "addresses",
        [
            ["127.0.0.1"],
            ["::1"],
            ["169.254.169.254"],
            ["::ffff:10.0.0.1"],
            ["64:ff9b::7f00:1"],
            # Public ones beside it make it no better.
            ["8.8.8.8", "10.0.0.1"],
            ["10.0.0.1", "8.8.8.8"],
            ["8.8.8.8", "nonsense"],
        ],
    )
    def test_a_name_that_leads_to_a_private_address_is_not_connected_to(self, addresses: list[str]) -> None:
        names, wire = Names(rebound_example_com=addresses), Wire(1)

        answer = post("https://rebound.example.com/", names, wire)

        assert (answer.status_code, answer.error) == (None, "The host leads to a private address.")
        assert wire.connected == []

    def test_a_literal_address_that_slipped_in_is_refused(self) -> None:
        names, wire = Names(), Wire(1)

        answer = post("https://127.0.0.1/", names, wire)

        assert answer.error == "url: Webhooks go to the public internet; this is a private address."
        assert (names.asked, wire.connected) == ([], [])

    def test_an_unknown_name(self) -> None:
        answer = post("https://nowhere.example.com/", Names(), Wire(1))

        assert (answer.status_code, answer.error) == (None, "The host's name cannot be resolved.")

    def test_a_name_without_addresses(self) -> None:
        answer = post("https://empty.example.com/", Names(empty_example_com=[]), Wire(1))

        assert answer.error == "The connection failed: The name has no address."

    def test_the_environments_proxies_are_not_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with running(Receiver()) as proxy, running(Receiver()) as receiver:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            names, wire = Names(hooks_example_com=["8.8.8.8"]), Wire(receiver.port)

            answer = post("http://hooks.example.com/", names, wire, may_be_private=True)

            assert (answer.status_code, len(receiver.received), proxy.received) == (204, 1, [])

    def test_a_redirect_to_a_private_address_is_not_followed(self) -> None:
        with running(Receiver()) as inside, running(Receiver()) as receiver:
            receiver.behave = answering(307, headers={"Location": inside.url})
            names, wire = Names(hooks_example_com=["8.8.8.8"]), Wire(receiver.port)

            answer = post("http://hooks.example.com/", names, wire, may_be_private=True)

            assert (answer.status_code, answer.is_success, inside.received) == (307, False, [])
            assert names.asked == ["hooks.example.com"]


class Certificates:
    """An authority of our own with one certificate, for `hooks.example.com` alone."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example.com")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example.com")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.path = directory / "certificate.pem"
        self.path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )

    def server(self, names: list[str | None]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        context.sni_callback = lambda _, name, __: names.append(name)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(self.path)
        return context


class TlsReceiver:
    def __init__(self, certificates: Certificates) -> None:
        self.names: list[str | None] = []
        self.hosts: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.hosts.append(self.headers["Host"])
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(HTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.socket = certificates.server(self.names).wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=True
        )
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class TestTls:
    @pytest.fixture
    def certificates(self, tmp_path: Path) -> Certificates:
        return Certificates(tmp_path)

    @pytest.fixture
    def receiver(self, certificates: Certificates) -> Iterator[TlsReceiver]:
        receiver = TlsReceiver(certificates)
        yield receiver
        receiver.close()

    def test_the_checked_address_is_connected_to_under_the_hosts_name(
        self, certificates: Certificates, receiver: TlsReceiver
    ) -> None:
        names, wire = Names(hooks_example_com=["8.8.4.4", "8.8.8.8"]), Wire(receiver.port)

        answer = post("https://hooks.example.com/", names, wire, tls=certificates.client())

        assert answer.status_code == 204, answer.error
        assert wire.connected == ["8.8.4.4"]
        assert names.asked == ["hooks.example.com"]
        assert (receiver.names, receiver.hosts) == (["hooks.example.com"], ["hooks.example.com"])

    def test_the_next_address_is_tried_when_one_is_dead(
        self, certificates: Certificates, receiver: TlsReceiver
    ) -> None:
        names = Names(hooks_example_com=["2606:4700::1", "8.8.8.8"])
        wire = Wire(receiver.port, dead=["2606:4700::1"])

        assert post("https://hooks.example.com/", names, wire, tls=certificates.client()).status_code == 204

        assert wire.connected == ["2606:4700::1", "8.8.8.8"]

    def test_a_certificate_of_another_host_is_refused(self, certificates: Certificates, receiver: TlsReceiver) -> None:
        names, wire = Names(other_example_com=["8.8.8.8"]), Wire(receiver.port)

        answer = post("https://other.example.com/", names, wire, tls=certificates.client())

        assert answer.status_code is None
        assert "CERTIFICATE_VERIFY_FAILED" in answer.error
        assert receiver.hosts == []

    def test_an_unknown_authority_is_refused(self, receiver: TlsReceiver) -> None:
        names, wire = Names(hooks_example_com=["8.8.8.8"]), Wire(receiver.port)

        answer = post("https://hooks.example.com/", names, wire)

        assert "CERTIFICATE_VERIFY_FAILED" in answer.error
        assert receiver.hosts == []


def test_the_list_of_private_addresses_is_one_of_addresses() -> None:
    """Guards the test itself: a typo in it would be refused as no address at all."""
    for address in PRIVATE[:-2] + PUBLIC:
        ipaddress.ip_address(address)
