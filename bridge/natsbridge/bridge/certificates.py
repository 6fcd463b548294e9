"""Files that are read again while the process runs, certificates above all."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from cryptography import x509

from natsbridge.bridge.errors import StartError

log = logging.getLogger(__name__)


def renew_chain(context: ssl.SSLContext, cert: Path, key: Path) -> str:
    """Have a context show this certificate from now on; tell until when it is good.

    Raises :class:`OSError` (an :class:`ssl.SSLError` is one) or :class:`ValueError` for files that
    can't be used, and the context keeps what it had: loading sets the certificate before it finds
    that the key is another's, so it is tried on a context of its own first.
    """
    ends = x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc
    for each in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        each.load_cert_chain(cert, key, password="")
    return f"good until {ends.isoformat()}"


def renew(settings: str, read: Callable[[], str]) -> None:
    """Read what these settings name again, and log what became of it."""
    try:
        if told := read():
            log.info("%s: read again, %s", settings, told)
    except (OSError, ValueError, StartError) as problem:
        log.error("%s: not read again, what was read before stays: %s", settings, problem)
