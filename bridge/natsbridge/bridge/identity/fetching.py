"""One HTTP GET of a JWKS, bounded in bytes and, as a whole, in time; runs in a thread.

urllib's timeout is for each wait, so a source that sends a byte now and then would keep a fetch for
ever: in its headers, its body, or the TLS handshake. :meth:`Fetch.cut` ends it from outside,
whatever it waits for; but for the resolver, which has a time limit of its own (resolv.conf(5)).
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import IO, Any, Final

MAX_JWKS_BYTES: Final = 256 * 1024


class JwksError(Exception):
    """The source did not answer with keys of use; the words say why."""


class Fetch:
    """One GET of ``url``; times are in seconds."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url: Final = url
        self._deadline: Final = time.monotonic() + timeout
        self._lock: Final = threading.Lock()
        self._handle: socket.socket | None = None
        self._is_over = False

    def read(self) -> bytes:
        """Return the body; raises :class:`JwksError`, or what urllib raises."""
        opener = urllib.request.build_opener(_NoRedirect, _Http(self), _Https(self))
        request = urllib.request.Request(  # noqa: S310  # the settings let http and https through only
            self._url, headers={"Accept": "application/jwk-set+json, application/json"}
        )
        body = bytearray()
        try:
            with opener.open(request, timeout=self._left()) as response:
                while chunk := response.read1(65536):
                    body += chunk
                    if len(body) > MAX_JWKS_BYTES:
                        raise JwksError("the answer is too large")
            if self._is_over:  # a body that ends where it was cut
                raise JwksError("the answer took too long")
        except urllib.error.HTTPError as error:
            error.close()
            raise JwksError(f"status {error.code}") from None
        except (OSError, http.client.HTTPException):
            if self._is_over:
                raise JwksError("the answer took too long") from None
            raise
        finally:
            self._let_go()
        return bytes(body)

    def cut(self) -> None:
        """End it if it still runs; from any thread, never waits."""
        with self._lock:
            self._is_over = True
            if self._handle is not None:
                # The socket's own object may be inside a TLS handshake; this is the same socket.
                with contextlib.suppress(OSError):
                    self._handle.shutdown(socket.SHUT_RDWR)

    def connect(self, address: tuple[str, int], *_: Any) -> socket.socket:
        """Return a connection that :meth:`cut` ends; in place of ``socket.create_connection``."""
        made = socket.create_connection(address, self._left())
        with self._lock:
            if self._is_over:
                made.close()
                raise TimeoutError
            self._handle = made.dup()
        return made

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _let_go(self) -> None:
        with self._lock:
            if self._handle is not None:
                self._handle.close()
                self._handle = None


class _Http(urllib.request.HTTPHandler):
    def __init__(self, fetch: Fetch) -> None:
        super().__init__()
        self._fetch = fetch

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)

    def _connection(self, host: str, /, **options: Any) -> http.client.HTTPConnection:
        made = http.client.HTTPConnection(host, **options)
        made._create_connection = self._fetch.connect  # type: ignore[attr-defined]  # http.client's
        return made


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, fetch: Fetch) -> None:
        super().__init__()
        self._fetch = fetch

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)

    def _connection(self, host: str, /, **options: Any) -> http.client.HTTPConnection:
        made = http.client.HTTPSConnection(host, **options)
        made._create_connection = self._fetch.connect  # type: ignore[attr-defined]  # http.client's
        return made


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, *args: Any
    ) -> None:
        # Keys come from the address that the owner named, or not at all.
        return None
