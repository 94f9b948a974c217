import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.wire.paths import default_runtime_dir, default_state_dir
from broker.wire.settings_file import SettingsError
from gateway import names
from gateway.core.sampling import Defaults
from gateway.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLX_BROKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def mistakes() -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return [str(line) for line in caught.value.args]


def test_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "5100")  # honcho's
    settings = load_settings()
    assert settings == Settings(
        host="127.0.0.1",
        port=8080,
        runtime_dir=default_runtime_dir(),
        state_dir=default_state_dir(),
        api_key=None,
        admin_token=None,
        allowed_origins=[],
        default_model=None,
        default_max_tokens=4096,
        models={},
        aliases={},
        max_body_mb=50,
        max_images=64,
        image_max_mb=20,
        image_timeout_seconds=10,
        image_max_redirects=3,
        allow_private_image_hosts=False,
        keepalive_seconds=10,
        log_level="info",
    )
    assert settings.max_body_bytes == 50 * 2**20


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mlx-broker.toml").write_text(
        'runtime_dir = "/run/mlx"\n[gateway]\nport = 9000\napi_key = "file"\n[broker]\nanything = 1\n[models."a/b"]\n'
    )
    monkeypatch.setenv("MLX_BROKER_PORT", "9001")
    monkeypatch.setenv("MLX_BROKER_ADMIN_TOKEN", "")  # empty counts as not set
    monkeypatch.setenv("MLX_BROKER_LOG_LEVEL", "DEBUG")
    settings = load_settings()
    assert settings.port == 9001
    assert settings.runtime_dir == Path("/run/mlx")
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "file"
    assert settings.admin_token is None
    assert settings.log_level == "debug"


def test_origins_in_both_places(monkeypatch: pytest.MonkeyPatch) -> None:
    origins = ["*", "null", "https://a.example:8443", "chrome-extension://abc", "http://[::1]:3000"]
    Path("mlx-broker.toml").write_text(f"[gateway]\nallowed_origins = {origins}\n")
    assert load_settings().allowed_origins == origins
    monkeypatch.setenv("MLX_BROKER_ALLOWED_ORIGINS", "http://a, http://b")
    assert load_settings().allowed_origins == ["http://a", "http://b"]
    for wrong in ("a.example", "http://A.example", "http://a/b", "http://a b"):
        monkeypatch.setenv("MLX_BROKER_ALLOWED_ORIGINS", wrong)
        assert "is not an origin" in mistakes()[0]


def test_defaults_of_a_model() -> None:
    Path("mlx-broker.toml").write_text(
        '[gateway]\ndefault_max_tokens = 77\n[models."o/n"]\nkeep_alive_seconds = 1\n[models."o/n".defaults]\n'
        "temperature = 0\nlogit_bias = {7 = -100}\nchat_template_kwargs = {enable_thinking = false}\n"
        "[models.m.defaults]\nmax_tokens = 5\n"
    )
    settings = load_settings()
    assert settings.defaults_of("o/n") == Defaults(
        max_tokens=77, temperature=0, logit_bias={"7": -100}, chat_template_kwargs={"enable_thinking": False}
    )
    assert settings.defaults_of("m") == Defaults(max_tokens=5)
    assert settings.defaults_of("other") == Defaults(max_tokens=77)


def test_the_file_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.toml").write_text("[gateway]\nport = 9000\n")
    monkeypatch.setenv("MLX_BROKER_CONFIG", "other.toml")
    assert load_settings().port == 9000
    monkeypatch.setenv("MLX_BROKER_CONFIG", "missing.toml")
    assert mistakes() == ["missing.toml: No such file or directory"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gateway]\nprot = 1\n", "[gateway] prot: there is no such setting"),
        ("[gateway]\nport = 70000\n", "[gateway] port (MLX_BROKER_PORT): "),
        ('[gateway]\napi_key = ""\n', "[gateway] api_key (MLX_BROKER_API_KEY): "),
        (
            '[gateway]\nallowed_origins = ["http://a/"]\n',
            "[gateway] allowed_origins (MLX_BROKER_ALLOWED_ORIGINS): 'http://a/' is not an origin",
        ),
        ("gateway = 1\n", "mlx-broker.toml: gateway must be a table"),
        ('[gateway]\nruntime_dir = "/x"\n', "mlx-broker.toml: runtime_dir must stand outside of [gateway]"),
        ("[brokre]\n", "mlx-broker.toml: brokre is not a table or name of this file"),
        ("[gateway\n", "mlx-broker.toml: "),
        ("[gateway.models.a]\n", "mlx-broker.toml: models must stand outside of [gateway]"),
        ('[models."o/n".defaults]\ntop_q = 1\n', "models.o/n.defaults.top_q: there is no such setting"),
        ('[models."o/n".defaults]\ntop_p = 2\n', "models.o/n.defaults.top_p: Input should be less than"),
        ('[models."o/n".defaults]\ntemperature = nan\n', "models.o/n.defaults.temperature: Input should be"),
        ('[models."o/n".defaults]\nlogit_bias = {a = 1}\n', "models.o/n.defaults.logit_bias: 'a' is not a token id"),
        ("[models.n.defaults.chat_template_kwargs]\na = 2000-01-01\n", "models.n.defaults.chat_template_kwargs.a: "),
        (f'runtime_dir = "/{"x" * 100}"\n', "runtime_dir is too long"),
    ],
)
def test_a_mistake_is_one_clear_line(text: str, expected: str) -> None:
    Path("mlx-broker.toml").write_text(text)
    [line] = mistakes()
    assert line.startswith(expected)


def test_a_wrong_start_says_every_mistake_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mlx-broker.toml").write_text("[gateway]\nprot = 1\nport = 70000\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLX_BROKER_MAX_BODY_MB": "0", "MLX_BROKER_API_KEY": "secret"}
    run = subprocess.run(
        [sys.executable, "-m", "gateway"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert run.returncode == 2
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert len(lines) == 3, run.stderr
    assert all(line.startswith("gateway: ") for line in lines)
    assert "secret" not in run.stderr


def test_defaults_apply_by_every_spelling_that_macos_takes_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mlx-broker.toml").write_text(
        '[models."org/Tiny".defaults]\ntemperature = 0.5\n[models."org/other".defaults]\ntemperature = 0.7\n'
    )
    settings = load_settings()
    asked = ("org/Tiny", "ORG/tiny", "org/x")
    monkeypatch.setattr(names, "PLATFORM", "darwin")
    assert [settings.defaults_of(name).temperature for name in asked] == [0.5, 0.5, None]
    monkeypatch.setattr(names, "PLATFORM", "linux")
    assert [settings.defaults_of(name).temperature for name in asked] == [0.5, None, None]
