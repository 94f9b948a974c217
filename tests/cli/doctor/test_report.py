"""What is printed, and what is kept back."""

from cli.doctor.facts import Finding, Rating
from cli.doctor.privacy import Privacy
from cli.doctor.report import report, worst

PRIVATE = Privacy("/Users/jane", ["org/secret-7B", "plain"], ["/Volumes/Jane Doe/x", "/Users/jane/my models"])


def test_home_and_its_owner_are_kept_back() -> None:
    assert PRIVATE.text("/Users/jane/models, /Users/jane") == "~/models, ~"
    assert PRIVATE.text("/Users/janet/models") == "/Users/.../models"
    assert PRIVATE.text("/Users/jane/my models: full") == "~/my models: full"
    assert PRIVATE.text("/Volumes/Jane/llm/models is full") == "/Volumes/.../models is full"
    assert PRIVATE.text("in '/Volumes/Jane Doe/x/y'") == "in '/Volumes/.../y'"


def test_what_every_machine_has_is_told() -> None:
    assert PRIVATE.text("/opt/homebrew/bin/python3, 0.5/1 GiB") == "/opt/homebrew/bin/python3, 0.5/1 GiB"
    assert PRIVATE.text("/var/folders/ab/c0ffee/T/mlxb-1") == "/var/folders/.../T/mlxb-1"


def test_names_of_models_are_kept_back_in_every_form() -> None:
    text = "org/secret-7B: no file /Users/jane/hub/models--org--secret-7B/x, plain, secret-7B"
    assert PRIVATE.text(text) == "<model 1>: no file ~/hub/<model 1>/x, <model 2>, <model 1>"
    assert "secret" not in str(PRIVATE.value({"broken": [("org/secret-7B", "org/secret-7B: bad")], "n": 3}))


def test_a_table_has_one_line_for_each_finding() -> None:
    text = report(
        "title",
        [
            Finding("system", "macOS", Rating.OK),
            Finding("name|x", "two\nlines <img src=x> \x1b[31m", Rating.WARNING, "do\nthis"),
        ],
        [Finding("decode", "fast", Rating.FAILED, "that")],
    )
    lines = text.splitlines()
    assert "| warning | name\\|x | two lines &lt;img src=x> \\x1b[31m |" in lines
    assert "## Live checks" in lines
    assert lines[-2:] == ["- failed, decode: that", "- warning, name|x: do this"]


def test_a_quick_report_without_trouble() -> None:
    text = report("title", [Finding("system", "macOS", Rating.OK)], [])
    assert "Live" not in text
    assert text.endswith("Nothing: all is well.")


def test_the_worst() -> None:
    ok, warning, failed = (Finding("x", "y", rating) for rating in (Rating.OK, Rating.WARNING, Rating.FAILED))
    assert worst([]) is worst([ok, Finding("x", "y")]) is Rating.OK
    assert worst([ok, warning]) is Rating.WARNING
    assert worst([warning, failed, ok]) is Rating.FAILED
