"""What follows the last complete block of a sequence that has ended: its tail."""

from pathlib import Path
from typing import Any

from tests.worker.cache.disk.disk_runs import files, over, written
from tests.worker.engine_runs import answer, load, run, without_count


def test_what_follows_the_last_block_is_used_as_far_as_it_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    """One file for all that goes on alike from a block: the last that has ended."""
    live = load(tiny_model, prompt_cache_tokens=0)
    same = "once upon a time " * 20  # 340 tokens
    for number, ends in enumerate(("there was " * 5, "nobody was there " * 3)):
        engine = over(tmp_path, tiny_model)
        run(engine, [{"prompt": same + ends, "max_tokens": 1}])
        assert len(written(engine, tmp_path)) == 2
        for begins, known in ((ends, len(ends)), ("nothing", 2 * number)):
            fields: dict[str, Any] = {"prompt": f"{same}{begins} and so on", "max_tokens": 8, "temperature": 0.0}
            body = run(over(tmp_path, tiny_model, prompt_cache_tokens=1000), [fields])[0][-1].body
            assert without_count(body) == answer(live, **fields)
            assert body["cached_tokens"] == len(same) + known
    (tail,) = [path for path in files(tmp_path) if "-t" in path.name]
    tail.write_bytes(tail.read_bytes()[:-1])
    body = run(over(tmp_path, tiny_model), [{"prompt": same + "nobody", "max_tokens": 1}])[0][-1].body
    assert body["cached_tokens"] == 256


def test_chats_that_part_behind_a_block_each_keep_what_follows(tiny_model: Path, tmp_path: Path) -> None:
    """As behind one system prompt. Four answers to one prompt leave one file."""
    live = load(tiny_model, prompt_cache_tokens=0)
    system = ("you are a helper. " * 15)[:256]
    chats = [system + f"{who} asks: " + "and so on " * 6 for who in ("one", "another")]
    engine = over(tmp_path, tiny_model)
    for chat in chats:
        run(engine, [{"prompt": chat, "max_tokens": 1}])
        written(engine, tmp_path)
    run(engine, [{"prompt": chats[0], "max_tokens": 9, "seed": seed} for seed in range(4)])
    assert len(written(engine, tmp_path)) == 3
    for chat in chats:
        fields: dict[str, Any] = {"prompt": chat + "next", "max_tokens": 8, "temperature": 0.0}
        body = run(over(tmp_path, tiny_model), [fields])[0][-1].body
        assert without_count(body) == answer(live, **fields)
        assert body["cached_tokens"] == len(chat)
