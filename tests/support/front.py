"""nginx and HAProxy in front of bridges, with the very files of ``deploy/``.

Only addresses, ports and paths of files are replaced, each of which must be there exactly once.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, Self

from tests.support.bridge import ROOT, OutputProcess
from tests.support.certificates import self_signed
from tests.support.nats_server import free_port

DEADLINE: Final = 10.0


def program(name: str) -> str | None:
    """Return the path of a program, None where this machine has none; some PATHs have no sbin."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which(name, path=path)


class Front(ABC):
    """A reverse proxy that ends TLS on a port of its own; a context manager."""

    name: ClassVar[str]
    file: ClassVar[str]

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        """``ports`` are those of two bridges on this machine."""
        self.port = free_port()
        self._folder = folder
        self._servers = {
            f"bridge-{number}:8000": f"127.0.0.1:{port}" for number, port in enumerate(ports, 1)
        }
        self._process: OutputProcess | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"https://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        command = self._command(*self_signed(self._folder))
        self._process = OutputProcess(command, os.environ)
        limit = time.monotonic() + DEADLINE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                if self._process.returncode is not None or time.monotonic() > limit:
                    self._process.kill()
                    raise AssertionError(self.log) from None
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(DEADLINE)

    @property
    def log(self) -> str:
        """All that it has logged."""
        assert self._process is not None
        files = [path.read_text() for path in self._folder.glob("*.log")]
        return "".join((self._process.output, *files))

    def _write(self, replaced: Mapping[str, str]) -> str:
        text = (ROOT / "deploy" / self.file).read_text()
        for old, new in {**self._servers, **replaced}.items():
            assert text.count(old) == 1, f"{old} is {text.count(old)} times in {self.file}"
            text = text.replace(old, new)
        path = self._folder / self.file
        path.write_text(text)
        return str(path)

    @abstractmethod
    def _command(self, cert: Path, key: Path) -> list[str]:
        """Write what it needs, and return how to start it."""


class Nginx(Front):
    """``deploy/nginx.conf``."""

    name = "nginx"
    file = "nginx.conf"

    def _command(self, cert: Path, key: Path) -> list[str]:
        folder = self._folder
        # Where a user who is not root may write.
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        config = self._write(
            {
                "listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
                "/etc/nginx/tls/cert.pem": str(cert),
                "/etc/nginx/tls/key.pem": str(key),
                "/var/log/nginx/error.log": f"{folder}/error.log",
                "/var/log/nginx/access.log": f"{folder}/access.log",
                "server_tokens off;": f"server_tokens off;\n{temporary}",
            }
        )
        found = program("nginx")
        assert found is not None
        settings = f"daemon off; pid {folder}/nginx.pid;"
        return [found, "-c", config, "-e", f"{folder}/start.log", "-g", settings]


class HaProxy(Front):
    """``deploy/haproxy.cfg``."""

    name = "haproxy"
    file = "haproxy.cfg"

    def _command(self, cert: Path, key: Path) -> list[str]:
        pair = self._folder / "pair.pem"
        pair.write_text(cert.read_text() + key.read_text())
        config = self._write(
            {
                "bind :443 ssl": f"bind 127.0.0.1:{self.port} ssl",
                "/etc/haproxy/tls.pem": str(pair),
            }
        )
        found = program("haproxy")
        assert found is not None
        return [found, "-db", "-f", config]
