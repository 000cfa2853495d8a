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
