"""One expression for the texts of a Lark grammar: what llguidance reads of the grammar itself is the measure."""

import pytest

from broker.wire.work import Generate
from tests.timing import assert_cheap
from tests.worker.generation.constraints.guides import Guide, quoted
from tests.worker.generation.constraints.patches import GRAMMAR, NO_PATCHES, PATCH
from worker.generation.constraints.inputs import Input, read_input
from worker.generation.constraints.lark import NotRegularError, escaped
from worker.generation.constraints.lark_pattern import expression_of

GUIDE = Guide()

# A grammar, texts of it, other texts.
CASES = [
    ('start: "a" "b"? ["c"]', ("a", "ab", "ac", "abc"), ("", "b", "abcc")),
    ('start: word ("," word)*\nword: /[a-z]+/ // comment\n# another', ("a", "ab,c,d"), ("", ",a", "a,", "A")),
    ('start: A{2} B~1..2 C{,2} D{1,}\nA: "a"\nB: "b"\nC: "c"\nD: "d"', ("aabd", "aabbccddd"), ("aabbb", "abd", "aab")),
    ('start: "x"i /[A-Z]/i "\\"" "\\n"', ('xq"\n', 'XQ"\n'), ('xq"', "xq\\n")),
    ('start: "a".."f" "\\x41" "\\u00e9" "/" /\\//', ("cAé//",), ("gAé//", "cA\\u00e9//")),
    ("start: ONE\n  | TWO\nONE: /1+/ | /2/\nTWO: ONE ONE", ("1", "2", "21", "1112"), ("", "3", "222")),
    (
        '!start: inner "." -> named\n?inner: "(" /[^)]*/ ")"',
        (
            "().",
            "(a\n\\b).",
        ),
        ("()", "(."),
    ),
    (
        "start: NUMBER WS_INLINE NAME\n%import common (NUMBER, WS_INLINE)\n%import common.CNAME -> NAME",
        ("1.5e3 \tx_1",),
        ("1.5x", "1 1"),
    ),
    ('start: INT "+" INT\n%ignore / +/\n%import common.INT', ("1+2", "1  + 2"), ("1+", "1.+2")),
    ("start: /a.c/s /d.f/", ("a\ncd f",), ("a\ncd\nf",)),
    ('start: items\nitems: items "," item | item\nitem: /\\d/', ("1", "1,2,3,4,5,6,7,8,9"), ("", "1,", "12")),
    ('start: item start | item\nitem: /[<>=;:@!%"\\\\]/', ('"', '<>=;:@!%"\\'), ("", "a")),
]


@pytest.mark.parametrize(("grammar", "texts", "others"), CASES)
def test_the_expression_has_the_texts_of_the_grammar(
    grammar: str, texts: tuple[str, ...], others: tuple[str, ...]
) -> None:
    itself = GUIDE.lark(grammar)
    pattern = expression_of(grammar)
    alone, in_json = GUIDE.lark(f"start: /{pattern}/"), GUIDE.schema(Input(grammar, pattern).schema)
    for text in (*texts, *others):
        wanted = text in texts
        assert GUIDE.takes(alone, text) is wanted, text
        assert GUIDE.takes(in_json, f'{{"input": {quoted(text)}}}') is wanted, text
        if "start" not in grammar.partition(":")[2]:  # llguidance takes what repeats itself at the end for a rule
            assert GUIDE.takes(itself, text) is wanted, text


def test_a_patch_in_json_follows_its_grammar() -> None:
    pattern = expression_of(GRAMMAR)
    itself, in_json = GUIDE.lark(GRAMMAR), GUIDE.schema(Input(GRAMMAR, pattern).schema)
    for text in (PATCH, PATCH + "\n", *NO_PATCHES):
        wanted = text not in NO_PATCHES
        assert GUIDE.takes(itself, text) is wanted
        assert GUIDE.takes(in_json, f'{{"input": {quoted(text)}}}') is wanted


@pytest.mark.parametrize(
    "grammar",
    [
        'start: "(" start ")"',
        "start: <|end|>",
        'start: %json {"type": "object"}',
        'start: %regex {"substring_chars": "ab"}',
        "start[lazy]: /.*a/",
        "start: A\nA: /a+/ & ~/aa/",
        "start: @other",
        "start: /a b/x",
        "start: missing",
        'other: "a"',
        "start: A\n%import common.OTHER",
    ],
)
def test_what_has_no_expression_says_so(grammar: str) -> None:
    with pytest.raises(NotRegularError, match=r"."):
        expression_of(grammar)


@pytest.mark.parametrize(
    ("grammar", "texts", "deep", "others"),
    [
        (
            'start: sum\nsum: part ("+" part)*\npart: /[0-9]+/ | "(" sum ")"',
            ("1", "12+3", "(1+(2+3))+4", "((1))"),
            "(" * 30 + "1" + ")" * 30,
            ("", "(1", "1)", "1+", "()"),
        ),
        ('start: "a" start "b" | "c"', ("c", "acb", "aacbb"), "a" * 30 + "c" + "b" * 30, ("", "ac", "acbb")),
        ('start: start "a" | "b" start | "c"', ("c", "ca", "bc", "bca", "bbcaa"), "b" * 30 + "c", ("", "ab", "cb")),
        (
            'start: value\nvalue: "[" [value ("," value)*] "]" | /"[^"]*"/\n%ignore / +/',
            ('"x"', '[ "x" , [] ]', '[["é\\"]]'),
            "[" * 30 + "]" * 30,
            ("", "[", '["x",]', "[x]"),
        ),
    ],
)
def test_what_contains_itself_is_written_out_some_levels_deep(
    grammar: str, texts: tuple[str, ...], deep: str, others: tuple[str, ...]
) -> None:
    tool = {"type": "function", "function": {"name": "note"}}
    given = read_input(Generate(messages=[], tools=[tool], input_grammars={"note": grammar}), 0)
    assert given is not None
    itself, in_json = GUIDE.lark(grammar), GUIDE.schema(given.schema)
    for text in (*texts, *others, deep):
        assert GUIDE.takes(itself, text) is (text not in others), text
        assert GUIDE.takes(in_json, f'{{"input": {quoted(text)}}}') is (text in texts), text


def test_an_expression_has_a_bounded_size_and_depth() -> None:
    doubled = "\n".join(f"r{n}: r{n + 1} r{n + 1}" for n in range(40))
    nested = "start: " + "(" * 2000 + '"a"' + ")" * 2000
    chain = "start: r0\n" + "\n".join(f"r{n}: r{n + 1}" for n in range(450)) + '\nr450: "a"'
    circles = "start: r0\n" + "\n".join(
        f'r{n}: "a" r{(n + 1) % 450} "b" r{(n * 7) % 450} "c" | "d"' for n in range(450)
    )
    tool = {"type": "function", "function": {"name": "note"}}

    def read() -> None:
        for grammar in (f'start: r0\n{doubled}\nr40: "a"', nested, chain, circles):
            with pytest.raises(NotRegularError, match=r"too (large|deeply)"):
                expression_of(grammar)
        read_input(Generate(messages=[], tools=[tool], input_grammars={"note": circles}), 0)

    assert_cheap(3, read)


def test_a_text_alone_is_escaped() -> None:
    text = "".join(map(chr, range(1, 128))) + "é\u2028\U0001f600"
    matcher = GUIDE.lark(f"start: /{escaped(text)}/")
    assert GUIDE.takes(matcher, text)
    assert not GUIDE.takes(matcher, text.replace(".", "x"))
