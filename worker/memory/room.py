"""The share of memory of one engine: who may begin in it, who waits for room, and what the broker is told.

Keeps the plan (worker/memory/plan.py), the prompt cache and MLX's limits in step. Requests wait in the order in which
they came: a small one does not overtake a large one, so that none waits for ever.
"""

from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

from broker.wire.failure import Code, Failure, FailureError
from worker.cache.prompt_cache import PromptCache
from worker.memory.plan import MemoryPlan, Wish

T = TypeVar("T")


class Limits(Protocol):
    """What MLX may take (worker/memory/limits.py)."""

    def apply(self, share_bytes: int) -> None:
        """Set all limits from a share."""


@dataclass(slots=True, frozen=True)
class Size:
    """What a request asks for, in tokens. answer: at most; is_stated: whether the client has said that number, else the
    answer may be shorter where memory is short; param: the field of the prompt. first: tokens of the answer that have
    room from the beginning, the rest by `grow`; 0 for all. beside: bytes that the request takes beside its caches until
    its prompt has been read."""

    prompt: int
    answer: int
    is_stated: bool
    param: str
    first: int = 0
    beside: int = 0


class Admitted(NamedTuple, Generic[T]):
    """A request that may begin. answer: tokens that it may have; reserved: those of them that have room already."""

    request_id: bytes
    what: T
    answer: int
    reserved: int


class Refused(NamedTuple, Generic[T]):
    """A request that has waited and can never fit any more."""

    request_id: bytes
    what: T
    failure: Failure


class MemoryRoom(Generic[T]):
    """Mutable state: the plan with its sequences, and the lengths that some of them would grow to; the requests that
    wait for room, whether the first of them is known not to fit, and those that can never fit since the limit has
    fallen; whether something has changed that the broker might be told, and what it was told last; the share that it
    has named last, and whether it does not know yet that some of it is free; the share that it wants this process to
    come down to, and whether it has wanted that since the last request came; the tokens of a step, and the bytes of the
    prompt cache for which they are right, -1 for none."""

    def __init__(self, plan: MemoryPlan, limits: Limits, prompts: PromptCache | None = None) -> None:
        """prompts: the prompt cache, which has what sequences leave."""
        self.plan = plan
        self._limits = limits
        self._prompts = prompts
        self._waiting: dict[bytes, tuple[Size, T]] = {}
        self._refused: list[Refused[T]] = []
        self._growing: dict[bytes, int] = {}
        self._has_changed = True
        self._told: Wish | None = None
        self._named = plan.share
        self._is_unconfirmed = False
        self._shrinks_to: int | None = None
        self._is_modest = False
        self._is_blocked = False
        self._piece, self._piece_for = 0, -1
        self._fit_prompts()

    @property
    def waiting(self) -> int:
        """How many requests wait for room. May be called from any thread."""
        return len(self._waiting)

    @property
    def is_blocked(self) -> bool:
        """Whether nothing has changed since the first that waits did not fit. May be called from any thread."""
        return self._is_blocked

    @property
    def piece(self) -> int:
        """How many prompt tokens a step may have now."""
        prompt_bytes = self._prompt_bytes
        if self._piece_for != prompt_bytes:
            self._piece, self._piece_for = self.plan.piece(prompt_bytes), prompt_bytes
        return self._piece

    @property
    def has_news(self) -> bool:
        """Whether the first that waits may begin, or one is refused."""
        return bool(self._refused) or (bool(self._waiting) and self._next_fits())

    def enter(self, request_id: bytes, size: Size, what: T) -> None:
        """A request comes; it waits until `admit` returns it. Raises FailureError if it can never fit."""
        self._answer(size)
        self._waiting[request_id] = size, what
        self._is_modest = False
        self._changed()

    def return_to_front(self, request_id: bytes, size: Size, what: T) -> None:
        """A request that had begun waits for room, before all others; it is refused if it can never fit any more."""
        self._forget(request_id)
        self._waiting = {request_id: (size, what), **self._waiting}
        self._refuse()
        self._changed()

    def grow(self, request_id: bytes, more: int) -> bool:
        """Whether there is room for so many more tokens of a sequence, which it then has. Else the broker is asked."""
        plan = self.plan
        length = plan.lengths[request_id]
        plan.lengths[request_id] = length + more
        if plan.is_bounded and plan.needed() > plan.smaller(self._shrinks_to):
            plan.lengths[request_id] = length
            self._growing[request_id] = length + more
            self._has_changed = True
            return False
        self._growing.pop(request_id, None)
        self._fit_prompts()
        self._has_changed, self._piece_for = True, -1
        return True

    def admit(self) -> Admitted[T] | None:
        """The first that waits, if there is room for it, which it has from now on. Drops what is in its way of the
        prompt cache."""
        if not self._waiting or not self._next_fits():
            return None
        request_id = next(iter(self._waiting))
        size, what = self._waiting.pop(request_id)
        answer = self._answer(size)
        reserved = _reserved(size, answer)
        self.plan.lengths[request_id] = size.prompt + reserved
        if size.beside:
            self.plan.beside[request_id] = size.beside
        self._fit_prompts()
        self._changed()
        return Admitted(request_id, what, answer, reserved)

    def refused(self) -> "list[Refused[T]]":
        """Requests that had waited and can never fit any more, each once."""
        refused, self._refused = self._refused, []
        return refused

    def leave(self, request_id: bytes) -> None:
        """A request has ended, begun or not."""
        self._waiting.pop(request_id, None)
        self._refused = [refused for refused in self._refused if refused.request_id != request_id]
        self._forget(request_id)
        self._changed()

    def has_read(self, request_id: bytes) -> None:
        """The prompt of a request has been read."""
        if self.plan.beside.pop(request_id, None) is not None:
            self._changed()

    def granted(self, share_bytes: int, limit_bytes: int) -> None:
        """The broker has set the share, and says what it can be at most, 0 if it does not know."""
        if self._is_unconfirmed and share_bytes > self._named:
            return  # sent before the broker knew that this process has given some back
        self._named, self._is_unconfirmed, self._shrinks_to = share_bytes, False, None
        if limit_bytes and limit_bytes != self.plan.limit:
            self.plan.limit = limit_bytes
            self._refuse()
        # Never more than this process has asked for, which the broker rounds up.
        self._set_share(share_bytes if self._told is None else min(share_bytes, self._told.wanted))
        self._changed()

    def shrink(self, share_bytes: int) -> None:
        """Others wait for memory: drops of the prompt cache what is above this share. Until the next share nothing
        begins that needs more."""
        if self._shrinks_to is None:
            self._told = None  # an answer is due, though nothing may be free; but not to the same words again
        self._shrinks_to = share_bytes
        self._is_modest = True
        self._fit_prompts()
        self._changed()

    def wish(self) -> Wish | None:
        """What the broker should be told now, if it is news."""
        plan = self.plan
        if not self._has_changed or not plan.is_bounded:
            return None
        self._has_changed = False
        wish = self._wish() if self._shrinks_to is None else self._wish_of_less(self._shrinks_to)
        if wish is None or (wish.wanted > plan.share and self._is_unconfirmed):
            return None  # the next share brings it up again
        self._told = wish
        if wish.wanted < plan.share:
            self._is_unconfirmed = True
            self._set_share(wish.wanted)
        return wish

    def _wish(self) -> Wish | None:
        sizes = [size.prompt + _reserved(size, self._answer(size)) for size, _ in self._waiting.values()]
        beside = sum(size.beside for size, _ in self._waiting.values())
        grown = replace(self.plan, lengths={**self.plan.lengths, **self._growing})
        wish = grown.wish(self._prompt_bytes + beside, sizes, is_modest=self._is_modest)
        wish = replace(wish, least=self.plan.needed())
        return wish if self.plan.is_news(wish, self._told) else None

    def _wish_of_less(self, share: int) -> Wish | None:
        """While others wait for memory: what is in use, and no more than before."""
        least = self.plan.needed()
        wanted = min(max(share, least + self._prompt_bytes), self.plan.share)
        return None if self._told is not None and wanted >= self._told.wanted else Wish(wanted, least)

    @property
    def _prompt_bytes(self) -> int:
        return 0 if self._prompts is None else self._prompts.nbytes

    def _forget(self, request_id: bytes) -> None:
        self._growing.pop(request_id, None)
        self.plan.beside.pop(request_id, None)
        if self.plan.lengths.pop(request_id, None) is not None:
            self._fit_prompts()

    def _changed(self) -> None:
        self._has_changed, self._is_blocked, self._piece_for = True, False, -1

    def _next_fits(self) -> bool:
        if self._is_blocked:
            return False
        size, _ = next(iter(self._waiting.values()))
        length = size.prompt + _reserved(size, self._answer(size))
        fits = self.plan.fits(length, size.beside, self._shrinks_to)
        self._is_blocked = not fits
        return fits

    def _answer(self, size: Size) -> int:
        """How many tokens the answer may have. Raises FailureError."""
        plan, whole = self.plan, size.prompt + size.answer
        if plan.can_ever_fit(whole, size.beside):
            return size.answer
        longest = plan.longest(whole, size.beside)
        if longest > size.prompt and not size.is_stated:
            return longest - size.prompt
        needed, most = _mib(plan.alone(whole, size.beside)), _mib(plan.limit)
        message = (
            f"a prompt of {size.prompt} tokens with an answer of up to {size.answer} needs {needed} of memory together "
            f"with the model, whose process can have at most {most}: enough for {longest} tokens"
        )
        param = "max_tokens" if longest > size.prompt else size.param
        raise FailureError(Failure(Code.CONTEXT_LENGTH_EXCEEDED, message, param))

    def _refuse(self) -> None:
        for request_id, (size, what) in list(self._waiting.items()):
            try:
                self._answer(size)
            except FailureError as error:
                del self._waiting[request_id]
                self._refused.append(Refused(request_id, what, error.failure))

    def _set_share(self, share_bytes: int) -> None:
        self.plan.share = share_bytes
        self._limits.apply(share_bytes)
        self._fit_prompts()

    def _fit_prompts(self) -> None:
        room = self.plan.prompt_room(self._shrinks_to)
        if self._prompts is not None and room is not None:
            self._prompts.bound(room)


def _reserved(size: Size, answer: int) -> int:
    """The tokens of an answer of at most so many that have room from the beginning."""
    return min(size.first, answer) if size.first else answer


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
