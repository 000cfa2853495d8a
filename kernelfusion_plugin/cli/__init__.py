"""``kernelfusion COMMAND …``, also ``python -m kernelfusion_plugin COMMAND …``.

Each command's module is imported only when it is called, which keeps ``kernelfusion --help`` and shell completion fast.
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
    'benchmark': ('bench.speed', 'Time each fast path against its slow counterpart in the same run.'),
    'compare': ('cli.compare', 'Run methods on the same pictures, score them alike, show the results side by side.'),
    'fit-textures': ('cli.fit_textures', 'Train the texture prior from scratch on generated pictures.'),
    'make-dataset': ('cli.make_dataset', 'Make a data set: DIV2KFK, Blind144, DIV2KRK, others, or your own.'),
    'pca': ('cli.pca', 'Compute the PCA matrix that DAN needs from the kernels that a training file draws.'),
    'published': ('bench.published', 'Compare our results with those published by the authors of KernelFusion.'),
    'restore': ('cli.restore', 'Recover sharp, enlarged pictures and blur kernels from small, blurred pictures.'),
    'watch': ('cli.watch', 'Follow a run in progress, or save an animation of a finished one.'),
}  # name: (module that defines it as ``command``, line in --help)


class Lazy(click.Group):
    """The group of COMMANDS. A user error prints one line and exits with status 2.

    ``KERNELFUSION_DEBUG=1`` shows the traceback instead.
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
        if sys.stderr is None:  # closed, e.g. by "2>&-"; progress bars would still write to it
            sys.stderr = open(os.devnull, 'w', encoding='utf-8')
        logging.basicConfig(level=logging.INFO, format='%(message)s')
        logging.getLogger('matplotlib').setLevel(logging.ERROR)  # verbose if it cannot write to the home folder
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        except (ImportError, OSError, ValueError) as error:
            from ..launch import one_line
            line = one_line(error)
            if line is None:
                raise
            raise click.UsageError(line) from error


@click.command(cls=Lazy, context_settings={'help_option_names': ['-h', '--help']})
@click.version_option(__version__)
def main() -> None:
    """Blind super-resolution with KernelFusion, and related tools."""
