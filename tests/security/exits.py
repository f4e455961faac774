"""Servers that misbehave, and names that lead where a test says."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from service.adapters.egress import Guard
from service.domain.egress import EgressPolicy

LOOPBACK = "127.0.0.1"


class Names:
    """A resolver: each question about a name takes the next of its answers; the last one stays."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = {name.replace("_", "."): list(found) for name, found in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int) -> list[Any]:
        self.asked.append(host)
        answers = self.answers.get(host)
        if answers is None:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [_info(text, port) for text in found.split()]


def _info(text: str, port: int) -> Any:
    if ip_address(text).version == 4:
        return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (text, port))
    return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (text, port, 0, 0))


def guard(*listed: str, names: Names | None = None) -> Guard:
    """A guard with a list, and names as given."""
    return Guard(EgressPolicy.of(listed), names or Names())


Answer = Callable[[socket.socket], None]


class Listener:
    """A TCP server that does what it is told with each connection, and counts them."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self._answer, self._context = answer, context
        self._socket = socket.create_server((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self.connections = 0
        self.requests: list[bytes] = []
        self.done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _run(self) -> None:
        while True:
            try:
                made, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(made,), daemon=True).start()

    def _serve(self, made: socket.socket) -> None:
        try:
            made.settimeout(10)
            if self._context is not None:
                made = self._context.wrap_socket(made, server_side=True)
            with made:
                head = b""
                while b"\r\n\r\n" not in head and (chunk := made.recv(65536)):
                    head += chunk
                self.requests.append(head)
                self._answer(made)
        except OSError:
            made.close()


def says(text: bytes) -> Answer:
    """Answers with fixed bytes."""
    return lambda made: made.sendall(text)


def reply(status: str, body: bytes = b"", *headers: str) -> Answer:
    """Answers properly."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "Connection: close"]
    return says("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


@contextmanager
def certificate(folder: Path, name: str) -> Iterator[tuple[ssl.SSLContext, ssl.SSLContext]]:
    """TLS contexts of a server with that name, and of a client that trusts it alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(pem))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    yield server, ssl.create_default_context(cadata=made.public_bytes(pem).decode())
