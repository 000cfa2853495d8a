"""``kernelfusion watch``: a run under way, or the animation of a saved one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..live import LIVE, find_run, read_status, save_animation, status_line
from .paths import UserPath


@click.command()
@click.argument('run', type=UserPath(), default=Path('restored'))
@click.option('--animation', type=UserPath(dir_okay=False),
              help='Write the picture and the kernel as they formed, as .gif or animated .png; of a --save-run.')
@click.option('--once', is_flag=True, help='Say where it stands, and end.')
@click.option('--interval', type=click.FloatRange(min=0.1), default=2.0, show_default=True,
              help='Seconds between two looks.')
def command(run: Path, animation: Path | None, once: bool, interval: float) -> None:
    """Follow RUN: a folder NAME_run, or the folder of results that it lies in (default: restored).

    Prints a line whenever something has changed, until the run ends. The picture and the kernel as they form are in
    NAME_run/live.png; an image viewer that renews itself shows them.
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
        click.echo('no process is at work: the same restore command goes on from here')
