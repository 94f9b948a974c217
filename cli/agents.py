"""What a coding agent must be told to work with a model here. Pure: text in, variables and arguments out.

An agent gets all of it for one start, as variables or arguments that it puts over its own settings; no file is written.
"""

import json
import shlex
from dataclasses import dataclass

KEY = "MLX_BROKER_API_KEY"
PROVIDER = "mlx-broker"
_NO_KEY = "none"
_MOST_OUTPUT = 8192


@dataclass(slots=True, frozen=True)
class ServedModel:
    """url: of the gateway. context: tokens that the model can hold, None if that is not known. has_key: whether the
    gateway wants the key in MLX_BROKER_API_KEY."""

    url: str
    model: str
    context: int | None
    has_key: bool

    @property
    def most_output(self) -> int:
        """Tokens that an answer may have, so that it leaves room for the question."""
        return min(_MOST_OUTPUT, (self.context or 4 * _MOST_OUTPUT) // 4)


@dataclass(slots=True, frozen=True)
class Launch:
    """variables: of the agent's environment, without the key. key_variable: the one that holds the key. arguments: come
    before those of the user."""

    program: str
    variables: dict[str, str]
    arguments: list[str]
    key_variable: str | None = None

    def environment(self, key: str | None) -> dict[str, str]:
        """All variables."""
        return {**self.variables, **({self.key_variable: key or _NO_KEY} if self.key_variable else {})}

    def shell_lines(self, *, has_key: bool) -> list[str]:
        """For `eval` in sh, bash and zsh: afterwards the program's own name starts it so. The key is only named."""
        lines = [f"export {name}={shlex.quote(value)}" for name, value in self.variables.items()]
        if self.key_variable:
            value = f'"${KEY}"' if has_key else _NO_KEY
            lines.append(f"export {self.key_variable}={value}")
        if self.arguments:
            lines.append(f'{self.program}() {{ command {shlex.join([self.program, *self.arguments])} "$@"; }}')
        return lines


def codex(to: ServedModel) -> Launch:
    """OpenAI's Codex, over Responses."""
    settings: list[tuple[str, str | int]] = [
        ("model", to.model),
        ("model_provider", PROVIDER),
        (f"model_providers.{PROVIDER}.name", PROVIDER),
        (f"model_providers.{PROVIDER}.base_url", f"{to.url}/v1"),
        (f"model_providers.{PROVIDER}.wire_api", "responses"),
    ]
    if to.has_key:
        settings.append((f"model_providers.{PROVIDER}.env_key", KEY))
    if to.context:
        settings += [
            ("model_context_window", to.context),
            ("model_auto_compact_token_limit", to.context * 4 // 5),
        ]
    # A JSON text is a TOML text.
    arguments = [word for name, value in settings for word in ("-c", f"{name}={json.dumps(value)}")]
    return Launch("codex", {}, arguments)


def opencode(to: ServedModel) -> Launch:
    """opencode, over chats."""
    limit = {"limit": {"context": to.context, "output": to.most_output}} if to.context else {}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": PROVIDER,
        "options": {"baseURL": f"{to.url}/v1", "apiKey": f"{{env:{KEY}}}" if to.has_key else _NO_KEY},
        "models": {to.model: {"name": to.model, "tool_call": True, **limit}},
    }
    model = f"{PROVIDER}/{to.model}"
    settings = {"provider": {PROVIDER: provider}, "model": model, "small_model": model}
    return Launch("opencode", {"OPENCODE_CONFIG_CONTENT": json.dumps(settings)}, [])


def claude(to: ServedModel) -> Launch:
    """Claude Code, over Messages."""
    names = (
        "ANTHROPIC_MODEL",
        "ANTHROPIC_DEFAULT_OPUS_MODEL",
        "ANTHROPIC_DEFAULT_SONNET_MODEL",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
        "CLAUDE_CODE_SUBAGENT_MODEL",
    )
    variables = {"ANTHROPIC_BASE_URL": to.url, "ANTHROPIC_API_KEY": "", **dict.fromkeys(names, to.model)}
    if to.context:
        variables |= {
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(to.context),
            "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(to.context),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(to.most_output),
        }
    variables["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] = "1"
    return Launch("claude", variables, [], "ANTHROPIC_AUTH_TOKEN")


AGENTS = {"codex": codex, "opencode": opencode, "claude": claude}
INSTALL = {
    "codex": "npm install -g @openai/codex",
    "opencode": "npm install -g opencode-ai",
    "claude": "npm install -g @anthropic-ai/claude-code",
}
