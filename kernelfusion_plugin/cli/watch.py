"""``kernelfusion watch``: follow a run in progress, or save an animation of a finished one."""

from __future__ import annotations

from pathlib import Path

import click

from ..click_path import UserPath
from ..live import find_run, follow, save_animation


@click.command()
@click.argument('run', type=UserPath(), default=Path('restored'))
@click.option('--animation', type=UserPath(dir_okay=False),
              help='Write an animation (.gif or .png) of how the picture and the kernel formed; needs --save-run. '
                   'Of existing files, only such animations are overwritten.')
@click.option('--once', is_flag=True, help='Print the current state and exit.')
@click.option('--interval', type=click.FloatRange(min=0.1), default=2.0, show_default=True,
              help='Seconds between two checks.')
def command(run: Path, animation: Path | None, once: bool, interval: float) -> None:
    """Follow RUN: a folder NAME_run, or the results folder that contains it (default: restored).

    Prints a line at every change until the run ends; in a results folder, until the last picture is done.
    NAME_run/live.png shows the current picture and kernel; open it in an image viewer that reloads changed files.
    """
    if animation is not None:
        folder = find_run(run)
        click.echo(f'{animation}: {save_animation(folder, animation)} frames of {folder}')
        return
    for line in follow(run, interval, once):
        click.echo(line)
