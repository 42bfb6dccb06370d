"""The words that people give with what cannot be undone."""

from common.errors import InvalidInput

MAX_REASON_CHARACTERS = 1000


def check_text(field: str, text: str, limit: int) -> None:
    """Raise `InvalidInput` for a text that says nothing, or more than is kept."""
    if not text.strip() or len(text) > limit or "\x00" in text:
        raise InvalidInput.of(field, f"Say why, in 1 to {limit} characters.", "reason_required")
