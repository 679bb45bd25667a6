"""JSON files with a digest of their content: a file that is damaged, or changed by hand, is refused."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from ddbench.config.recipes import require_plain


def dump(content: Mapping[str, Any]) -> str:
    """Returns `content` as JSON text with a digest of it. Reformatting the text does not invalidate the digest.

    Args:
        content: A JSON object without the name "digest".
    """
    return json.dumps({**content, "digest": digest(content)}, indent=1) + "\n"


def load(text: str) -> dict[str, Any]:
    """Parses the text of `dump` and verifies its digest.

    Text without a digest (written by older versions) is accepted.

    Raises:
        ValueError: If the text is not JSON, holds NaN or infinity, or does not match its digest.

    Example:
        >>> load(dump({"top1": 62.5}))
        {'top1': 62.5}
    """
    try:
        content = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    require_plain(content)
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    if "digest" in content and content.pop("digest") != digest(content):
        raise ValueError("damaged, or changed by hand: it does not match its digest")
    return content


def digest(content: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of the content in hexadecimal digits. The order of names does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
