"""The index of known prompts against a search that looks at all of them."""

from hypothesis import given
from hypothesis import strategies as st

from tests.timing import assert_cheap
from worker.cache.prefix_index import PrefixIndex, common_length, key_of, length

# Few different tokens, so that beginnings are shared; some that differ in any one byte.
_TOKEN = st.sampled_from([0, 1, 256, 65536, 2**24, 2**32 - 1])
_PROMPT = st.lists(_TOKEN, max_size=8).map(tuple)


def shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(_PROMPT, _PROMPT)
def test_common_length(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert common_length(key_of(one), key_of(other)) == shared(one, other)
    assert length(key_of(one)) == len(one)


@given(st.sets(_PROMPT), st.sets(_PROMPT), _PROMPT)
def test_it_finds_what_a_look_at_all_finds(
    kept: set[tuple[int, ...]], dropped: set[tuple[int, ...]], prompt: tuple[int, ...]
) -> None:
    index = PrefixIndex()
    for known in kept | dropped:
        index.add(key_of(known))
    for known in dropped - kept:
        index.remove(key_of(known))
    most = max((shared(known, prompt) for known in kept), default=0)
    near = index.nearest(key_of(prompt))
    if near is None:
        assert most == 0
    else:
        assert near[1] == most
        assert near[0] in {key_of(known) for known in kept if shared(known, prompt) == most}
    beginnings = [known for known in kept if prompt[: len(known)] == known]
    longest = max(beginnings, key=len, default=None)
    assert index.beginning_of(key_of(prompt)) == (None if longest is None else key_of(longest))


def test_many_long_chats_that_begin_alike_are_searched_in_no_time() -> None:
    index = PrefixIndex()
    for number in range(256):
        index.add(key_of([*range(1000), number, *range(4000)]))
    prompt = key_of([*range(1000), 256, *range(4000)])

    def search() -> None:
        near = index.nearest(prompt)
        assert near is not None
        assert near[1] == 1000

    assert_cheap(0.1, search)
