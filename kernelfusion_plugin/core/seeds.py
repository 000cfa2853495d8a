"""Seeds by name: the randomness of an image depends only on the run's seed and the image's name."""

from __future__ import annotations

import hashlib


def derived(*parts: object) -> int:
    """A seed in [0, 2^63) from ``parts`` joined by slashes; an image's name may hold bytes that are not valid text."""
    text = '/'.join(map(str, parts)).encode(errors='surrogateescape')
    return int.from_bytes(hashlib.sha256(text).digest()[:8], 'big') >> 1
