"""Aliases, a pattern and a profile of one model: one process, whatever name it is asked by."""

from collections.abc import Callable

from tests.service import Service


def test_one_process_has_many_names(make_service: Callable[..., Service]) -> None:
    short = {"model": "tiny-a", "defaults": {"max_tokens": 3}}
    service = make_service(
        aliases={"sonnet": "tiny-a", "tiny:short": short, "claude-*": "tiny:short"},
        models={"tiny-a": {"defaults": {"max_tokens": 5}}},
        broker={"preload_models": ["sonnet"]},
    )
    assert service.wait_state("tiny-a", "ready")["preloaded"] is True
    pid = service.model("tiny-a")["pid"]
    for name, tokens, answers in (
        ("tiny-a", 5, "tiny-a"),
        ("TINY-A:latest", 5, "tiny-a"),
        ("sonnet", 5, "sonnet"),
        ("tiny:short", 3, "tiny:short"),
        ("claude-haiku-4-5", 3, "claude-haiku-4-5"),
    ):
        answer = service.chat(name, max_tokens=None).json()
        assert (answer["model"], answer["usage"]["completion_tokens"]) == (answers, tokens)
        with service.stream(name, max_tokens=None, stream_options={"include_usage": True}) as stream:
            usage = stream.finish().usage
        assert usage is not None
        assert usage["completion_tokens"] == tokens
    assert service.model("tiny-a")["pid"] == pid
    assert service.kill("claude-haiku-4-5").json() == {"status": "killed", "model_id": "tiny-a", "pid": pid}
    service.wait_state("tiny-a", "ready")  # it is pinned
    assert service.unload("tiny:short").json() == {"status": "unloaded", "model_id": "tiny-a"}
    listed = {entry["id"]: entry.get("alias_of") for entry in service.client.get("/v1/models").json()["data"]}
    assert listed["sonnet"] == listed["tiny:short"] == "tiny-a"
    assert listed["tiny-a"] is None
