"""Errors as OpenAI's clients expect them: a status, and ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from octupus.errors import OctupusError

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}


class ApiError(OctupusError):
    """A request that gets an error answer. ``param`` is the field at fault, ``code`` a stable word for programs."""

    def __init__(
        self, message: str, status: int = 400, param: str | None = None, code: str | None = None, retry_after_s: int = 0
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(self.retry_after_s)} if self.retry_after_s else {}


def refuse(param: str, why: str, code: str = "invalid_value") -> NoReturn:
    """A 400 that names the field."""
    raise ApiError(f"{param}: {why}", param=param, code=code)
