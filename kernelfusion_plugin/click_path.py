"""Paths on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click


class UserPath(click.Path):
    """A non-empty path in which ``~`` is the home folder.

    Shells do not expand ``~`` after ``--out=``, and nobody wants a folder of that name.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401  (click's own)
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        if not str(value):
            self.fail('a path must not be empty', param, ctx)
        return super().convert(os.path.expanduser(value), param, ctx)


class WeightsPath(UserPath):
    """A file to write weights to, .pt or .pth: a picture named by mistake is not replaced."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:  # noqa: ANN401
        path = super().convert(value, param, ctx)
        if path.suffix.lower() not in ('.pt', '.pth'):
            self.fail(f'the name of a file of weights must end in .pt or .pth, got {str(path)!r}', param, ctx)
        return path
