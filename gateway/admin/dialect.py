"""The dialect of administration: errors are `{"detail": message}`. Pure."""

from broker.wire.failure import Failure
from gateway.core.dialect import Json
from gateway.core.failure import STATUS


class AdminDialect:
    """A Dialect."""

    def status(self, failure: Failure) -> int:
        """That of the common table."""
        return STATUS[failure.code]

    def error(self, failure: Failure) -> Json:
        """As the contract has it."""
        return {"detail": failure.message}


ADMIN = AdminDialect()
