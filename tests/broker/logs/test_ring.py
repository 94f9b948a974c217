"""The last lines of a model, within bounds."""

from broker.logs.ring import MAX_BYTES, MAX_LINES, Line, Ring


def lines(ring: Ring, number: int = 0) -> list[str]:
    return [line.text for line in ring.since(number)]


def test_only_the_last_lines_are_kept() -> None:
    ring = Ring()
    for n in range(MAX_LINES + 5):
        ring.add(Line(0.0, 1, str(n)))
    assert lines(ring) == [str(n) for n in range(5, MAX_LINES + 5)]
    assert (ring.start, ring.end) == (5, MAX_LINES + 5)


def test_and_only_so_many_bytes() -> None:
    ring = Ring()
    for _ in range(500):
        ring.add(Line(0.0, 1, "x" * 2000))
    assert sum(line.size for line in ring.since(0)) <= MAX_BYTES
    assert len(lines(ring)) > 100


def test_one_line_is_always_kept() -> None:
    ring = Ring(max_bytes=10)
    ring.add(Line(0.0, 1, "a" * 100))
    ring.add(Line(0.0, 1, "b" * 100))
    assert lines(ring) == ["b" * 100]


def test_a_reader_goes_on_where_it_was() -> None:
    ring = Ring(max_lines=3)
    for text in "abcde":
        ring.add(Line(0.0, 1, text))
    assert lines(ring, 3) == ["d", "e"]
    assert lines(ring, 1) == ["c", "d", "e"]
    assert lines(ring, 5) == []
