"""A way round for a client whose host is compiled in: an HTTPS proxy that is that host itself, by its environment.

The client keeps its address and its code; its HTTP library takes `HTTPS_PROXY` and `REQUESTS_CA_BUNDLE` from the
environment. The proxy answers CONNECT, speaks TLS with a certificate made for this run, and puts the dialect's path
before the one asked for: what a hosts entry with a reverse proxy behind it does.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@contextmanager
def standing_in(host: str, base: str, prefix: str, directory: Path) -> Iterator[dict[str, str]]:
    """The variables under which `https://host/…` is the gateway's `base` + `prefix` + `/…`."""
    bundle = _certificate(host, directory)
    loop = asyncio.new_event_loop()
    proxy = _Proxy(urlsplit(base).port or 80, prefix.encode(), bundle)
    server = loop.run_until_complete(asyncio.start_server(proxy.serve, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        port = server.sockets[0].getsockname()[1]
        yield {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "REQUESTS_CA_BUNDLE": str(bundle), "NO_PROXY": "127.0.0.1"}
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        server.close()


class _Proxy:
    def __init__(self, port: int, prefix: bytes, bundle: Path) -> None:
        self._port, self._prefix = port, prefix
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(bundle)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: CONNECT, TLS, one request with `Connection: close` put into it."""
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.drain()
            await writer.start_tls(self._context)
            head = await reader.readuntil(b"\r\n\r\n")
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            method, _, rest = head.partition(b" ")
            lines = [line for line in rest.split(b"\r\n") if not line.lower().startswith(b"connection:")]
            back.write(method + b" " + self._prefix + b"\r\n".join([lines[0], b"Connection: close", *lines[1:]]))
            writer.write(await there.read())
            await writer.drain()
            back.close()
        writer.close()


def _certificate(host: str, directory: Path) -> Path:
    """A certificate for the host that vouches for itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{host}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(0o600)
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path
