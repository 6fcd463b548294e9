"""Who calls over HTTP: the bearer of a token, and whether that is an admin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from natsbridge.bridge.errors import TokenError
from natsbridge.bridge.identity.failures import Failures
from natsbridge.bridge.identity.tokens import Identity, KeyNeeded, NotYetValid

Check = Callable[[str], Awaitable[Identity]]
"""Takes a token, raises :class:`TokenError` when it is refused or revoked."""


def address_of(request: Request) -> str:
    """Return the caller's address, past the proxies that are trusted."""
    peer = "" if request.client is None else request.client.host
    forwarded = request.headers.getlist("x-forwarded-for")
    address: str = request.app.state.address(peer, ", ".join(forwarded) if forwarded else None)
    return address


def path_of(request: Request) -> str:
    """Return the template of the route that is called: a path may name a user."""
    path: str = getattr(request.scope.get("route"), "path", "")
    return path


_bearer = HTTPBearer(auto_error=False, description="A token as for the WebSocket")


async def caller(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Identity:
    """Return who calls, or answer 401; 503 when the token may be good, but can't be told yet.

    A bad token counts as a failed handshake of its address does: over the limit good ones are
    served, within a budget a second, and bad ones answered with 429.
    """
    check: Check = request.app.state.check_token
    failures: Failures = request.app.state.failures
    reason, observer = "a bearer token is needed", request.app.state.observer
    address = address_of(request)
    where = (address, path_of(request))
    if credentials is not None:
        over = failures.exceeded(address)
        if over and not failures.may_verify(address):
            raise _too_many(request, failures)
        try:
            return await check(credentials.credentials)
        except (KeyNeeded, NotYetValid) as problem:
            # The token may be good.
            if isinstance(problem, KeyNeeded):
                failures.failed(address)
            observer.request_refused(503, problem.reason, *where)
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE, problem.reason, headers={"Retry-After": "10"}
            ) from None
        except TokenError as problem:
            reason = problem.reason
            observer.count_token(reason)
            failures.failed(address)
        if over:
            failures.verified(address)
            raise _too_many(request, failures)
    observer.request_refused(401, reason, *where)
    raise HTTPException(
        status.HTTP_401_UNAUTHORIZED, reason, headers={"WWW-Authenticate": "Bearer"}
    )


def _too_many(request: Request, failures: Failures) -> HTTPException:
    reason, address = "Too many failed calls and handshakes", address_of(request)
    request.app.state.observer.request_refused(429, reason, address, path_of(request))
    return HTTPException(
        status.HTTP_429_TOO_MANY_REQUESTS,
        reason,
        headers={"Retry-After": str(failures.retry_after(address))},
    )


async def admin(request: Request, identity: Annotated[Identity, Depends(caller)]) -> Identity:
    """Return who calls, or answer 403 when that is no admin."""
    if not identity.admin:
        request.app.state.observer.request_refused(
            403, "Admin access required", address_of(request), path_of(request)
        )
        raise HTTPException(status.HTTP_403_FORBIDDEN, "Admin access required")
    return identity


Caller = Annotated[Identity, Depends(caller)]
Admin = Annotated[Identity, Depends(admin)]


def bearer_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the bearer token of a request (names in lower case), empty where there is none."""
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""
