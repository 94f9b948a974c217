"""One rule for the defaults of every body: none is copied for every request."""

from collections.abc import Iterator

from gateway.app import ENDPOINTS
from gateway.core.validation import RequestBody


def below(model: type[RequestBody]) -> Iterator[type[RequestBody]]:
    for one in model.__subclasses__():
        yield one
        yield from below(one)


def test_no_default_is_copied_for_every_request() -> None:
    """Pydantic makes a deep copy of a default that has no hash, which takes longer than reading a small body."""
    models = set(below(RequestBody))
    assert models >= {endpoint.body for endpoint in ENDPOINTS if endpoint.path == "/v1/chat/completions"}
    copied = []
    for model in models:
        for name, field in model.model_fields.items():
            try:
                hash(field.default)
            except TypeError:
                copied.append(f"{model.__name__}.{name}")
    assert not copied
