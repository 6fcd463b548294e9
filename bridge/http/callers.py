"""Who calls over HTTP: the bearer of a token, and whether that is an admin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security, status
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from bridge.errors import TokenError
from bridge.identity.tokens import Identity, KeyNeeded

Check = Callable[[str], Awaitable[Identity]]
"""Takes a token, raises :class:`TokenError` when it is refused or revoked."""

_bearer = HTTPBearer(auto_error=False, description="A token as for the WebSocket")


async def caller(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Identity:
    """Return who calls, or answer 401 (503 when keys can't be fetched)."""
    check: Check = request.app.state.check_token
    reason = "a bearer token is needed"
    if credentials is not None:
        try:
            return await check(credentials.credentials)
        except KeyNeeded:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE, "Keys can't be fetched now"
            ) from None
        except TokenError as problem:
            reason = problem.reason
    raise HTTPException(
        status.HTTP_401_UNAUTHORIZED, reason, headers={"WWW-Authenticate": "Bearer"}
    )


async def admin(identity: Annotated[Identity, Depends(caller)]) -> Identity:
    """Return who calls, or answer 403 when that is no admin."""
    if not identity.admin:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "Admin access required")
    return identity


Caller = Annotated[Identity, Depends(caller)]
Admin = Annotated[Identity, Depends(admin)]
