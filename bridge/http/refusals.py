"""What is said of a request that does not fit its form: where and why, never what it held."""

from __future__ import annotations

from fastapi import Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse


async def refuse_request(_: Request, problem: Exception) -> JSONResponse:
    """Answer 422 without the input, which may be secret, or no text that can be sent back."""
    assert isinstance(problem, RequestValidationError)
    told = [
        {"loc": list(each["loc"]), "msg": each["msg"], "type": each["type"]}
        for each in problem.errors()
    ]
    return JSONResponse({"detail": told}, status_code=status.HTTP_422_UNPROCESSABLE_CONTENT)
