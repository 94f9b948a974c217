"""How long a body may take to come. Pure."""

from dataclasses import dataclass


@dataclass(slots=True)
class Pauses:
    """The seconds for which a client may send nothing of one body. Each byte gives a part of them back, but there are
    never more than at the beginning: a client that was fast at first cannot send slowly for days.

    most: of them; rate: bytes that give back a second; left: until the next bytes must have come.
    """

    most: float
    rate: float
    left: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.most

    def comes(self, size: int, waited: float) -> bool:
        """So many bytes have come after so many seconds of waiting. False: too late."""
        self.left = min(self.most, self.left - waited + size / self.rate)
        return self.left > 0
