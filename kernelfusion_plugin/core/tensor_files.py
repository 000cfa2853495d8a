"""Files written by ``torch.save``, read without running any code in them."""

from __future__ import annotations

import os
from typing import Any

import torch

from .faults import first_line


def load_tensors(path: str | os.PathLike[str], what: str) -> Any:
    """The content of a file: tensors and plain values, on the CPU. Code in it is never run.

    Args:
        what: what the file should be, for the message.

    Raises:
        ValueError: there is no such file, or it holds something else; in one line.
    """
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f'{path}: there is no such file') from error
    except (OSError, RuntimeError) as error:
        raise ValueError(f'{path}: not {what}: {first_line(error)[:120]}') from error
    except Exception as error:  # noqa: BLE001  (a file of another kind is read as a pickle, which fails in many ways)
        raise ValueError(f'{path}: not {what}: it holds more than tensors and plain values, or none of it') from error
