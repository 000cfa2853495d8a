"""Seeds by name: what is random about an image depends on nothing but the run's seed and its name."""

from __future__ import annotations

import hashlib


def derived(*parts: object) -> int:
    """A seed in [0, 2^63) of ``parts``, joined by slashes; an image's name may hold bytes that are no text."""
    text = '/'.join(map(str, parts)).encode(errors='surrogateescape')
    return int.from_bytes(hashlib.sha256(text).digest()[:8], 'big') >> 1
