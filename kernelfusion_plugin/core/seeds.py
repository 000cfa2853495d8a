"""Randomness of an image: it depends only on the run's seed and the image's name, and leaves global state alone."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_random_state = threading.RLock()


def derived(*parts: object) -> int:
    """A seed in [0, 2^63) from ``parts`` joined by slashes; an image's name may hold bytes that are not valid text."""
    text = '/'.join(map(str, parts)).encode(errors='surrogateescape')
    return int.from_bytes(hashlib.sha256(text).digest()[:8], 'big') >> 1


@contextmanager
def own_random_state() -> Iterator[None]:
    """Reserve the global random state, from which modules draw initial weights, for this thread; restore it after."""
    with _random_state, torch.random.fork_rng(devices=[]):
        yield
