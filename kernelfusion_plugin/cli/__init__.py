"""``kernelfusion COMMAND …``, also ``python -m kernelfusion_plugin COMMAND …``.

A command is imported when it is called, so that ``kernelfusion --help`` and the shell's completion are quick.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from typing import Any

import click

from .. import __version__

COMMANDS = {
    'benchmark': ('bench.speed', 'What the fast paths are worth, each beside the slow one in one run.'),
    'compare': ('cli.compare', 'Run methods on the same pictures, score them alike, show them side by side.'),
    'fit-textures': ('cli.fit_textures', 'Fit the texture prior anew, to generated pictures.'),
    'make-dataset': ('cli.make_dataset', 'Make a data set: DIV2KFK, Blind144, DIV2KRK, others, your own.'),
    'pca': ('cli.pca', 'The PCA matrix that DAN needs, of the kernels that a training file draws.'),
    'published': ('bench.published', 'Ours beside what the authors of KernelFusion published.'),
    'restore': ('cli.restore', 'Sharp pictures and blur kernels from blurred, small ones.'),
    'watch': ('cli.watch', 'A run under way, or the animation of a saved one.'),
}  # name: module that has it as ``command``, line in the list


class Lazy(click.Group):
    """The commands of COMMANDS. A fault in what the user gave is one line and status 2.

    ``KERNELFUSION_DEBUG=1`` shows its traceback instead.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return importlib.import_module(f'kernelfusion_plugin.{COMMANDS[name][0]}').command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section('Commands'):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        if sys.stderr is None:  # closed, as by "2>&-": progress bars write to it all the same
            sys.stderr = open(os.devnull, 'w', encoding='utf-8')
        logging.basicConfig(level=logging.INFO, format='%(message)s')
        logging.getLogger('matplotlib').setLevel(logging.ERROR)  # speaks at length of a home that cannot be written to
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        except (ImportError, OSError, ValueError) as error:
            from ..launch import one_line
            line = one_line(error)
            if line is None or os.environ.get('KERNELFUSION_DEBUG') == '1':
                raise
            raise click.UsageError(line) from error


@click.command(cls=Lazy, context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(__version__)
def main() -> None:
    """Blind super-resolution: KernelFusion and what belongs to it."""
