"""Which names a model can have."""


def is_model_name(model_id: str) -> bool:
    """Whether this is `name` or `org/name`, and never a path that leads elsewhere."""
    parts = model_id.split("/")
    return len(parts) <= 2 and not any(part[:1] in ("", ".") or "\\" in part or "\0" in part for part in parts)
