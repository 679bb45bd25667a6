"""Serialises values to canonical JSON (equal values give equal text) and computes cache keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: object) -> str:
    """Formats a value as JSON with sorted keys and without spaces. Equal values give equal text.

    Args:
        value: A JSON value without NaN and infinity.

    Returns:
        One line.

    Raises:
        TypeError: The value is not a JSON value.

    Example:
        >>> canonical_json({"b": [1, 2.5], "a": None})
        '{"a":null,"b":[1,2.5]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(depends_on: Mapping[str, Any]) -> str:
    """Computes the cache key of an artifact.

    Args:
        depends_on: Everything that the artifact depends on, as JSON values.

    Returns:
        32 hexadecimal digits: the beginning of SHA-256 over the canonical JSON.

    Example:
        >>> key_of({"stage": "teacher", "seed": 0})
        '8accf7ae0f54cd3c72a39ccd37eec3fd'
    """
    return hashlib.sha256(canonical_json(depends_on).encode()).hexdigest()[:32]
