"""``kernelfusion watch``: follow a run in progress, or save an animation of a finished one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..click_path import UserPath
from ..live import LIVE, find_run, read_status, save_animation, status_line


@click.command()
@click.argument('run', type=UserPath(), default=Path('restored'))
@click.option('--animation', type=UserPath(dir_okay=False),
              help='Write an animation (.gif or .png) of how the picture and the kernel formed; needs --save-run.')
@click.option('--once', is_flag=True, help='Print the current state and exit.')
@click.option('--interval', type=click.FloatRange(min=0.1), default=2.0, show_default=True,
              help='Seconds between two checks.')
def command(run: Path, animation: Path | None, once: bool, interval: float) -> None:
    """Follow RUN: a folder NAME_run, or the results folder that contains it (default: restored).

    Prints a line at every change until the run ends. NAME_run/live.png shows the current picture and kernel; open it
    in an image viewer that reloads changed files.
    """
    folder = find_run(run)
    if animation is not None:
        click.echo(f'{animation}: {save_animation(folder, animation)} frames')
        return
    click.echo(f'live picture: {folder / LIVE}')
    said = ''
    while (status := read_status(folder)) is not None:
        line = status_line(status)
        if line != said:
            click.echo(line)
            said = line
        if once or not status['active']:
            break
        time.sleep(interval)
    if status is None:
        click.echo('the run has ended')
    elif not status['active'] and status.get('state') != 'finished':
        click.echo('no process is running: repeat the restore command to resume')
