"""The dialect of administration: errors are `{"detail": message}`. Pure."""

from pydantic import BaseModel, ConfigDict

from broker.wire.failure import Failure
from gateway.core.dialect import Json
from gateway.core.failure import STATUS


class AdminError(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(strict=True, extra="forbid")

    detail: str


class AdminDialect:
    """A Dialect."""

    name = "Administration"
    error_answer = AdminError

    def status(self, failure: Failure) -> int:
        """That of the common table."""
        return STATUS[failure.code]

    def error(self, failure: Failure) -> Json:
        """As the contract has it."""
        return {"detail": failure.message}


ADMIN = AdminDialect()
