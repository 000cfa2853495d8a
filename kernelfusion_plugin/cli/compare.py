"""``kernelfusion compare``: run methods on the same pictures, score them with the same code, show them side by side."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..click_path import UserPath

if TYPE_CHECKING:
    from ..bench.compare.collect import Comparison

LISTS = ('-opt', '--force_yml')  # take several values, as in BasicSR's own programs

log = logging.getLogger(__name__)


class _Lists(click.Command):
    """Accepts ``-opt a.yml b.yml`` as ``-opt a.yml -opt b.yml``; keeps the command line for the table header."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta['command'] = shlex.join(['kernelfusion', 'compare', *args])
        return super().parse_args(ctx, list(_spread(args)))


@click.command(cls=_Lists)
@click.option('-opt', 'files', metavar='FILE ...', multiple=True, required=True,
              type=UserPath(), help='BasicSR option files, one per method, for any model.')
@click.option('--out', metavar='DIR', type=UserPath(file_okay=False),
              default=Path('results/comparison'), show_default=True,
              help='Output folder for tables, pictures, the page and the runs.')
@click.option('--reference', metavar='NAME',
              help='Method that the others are compared with. Default: that of the first file.')
@click.option('--crop', 'crops', metavar='NAME:ROW,COL,SIZE', multiple=True,
              help='Part of an image to show enlarged, in HR pixels; may be repeated. '
                   'Default: where the methods differ most.')
@click.option('--fresh', is_flag=True, help='Run everything, even if results for the same options and data exist.')
@click.option('--page-images', default=24, show_default=True, type=click.IntRange(min=0),
              help='Number of images on the page; sheets/ has all of them.')
@click.option('--force_yml', metavar='A:B=VALUE ...', multiple=True, help='Change an option in every option file.')
@click.pass_context
def command(ctx: click.Context, files: tuple[Path, ...], out: Path, reference: str | None, crops: tuple[str, ...],
            fresh: bool, page_images: int, force_yml: tuple[str, ...]) -> None:
    """Compare methods on one data set.

    Each option file runs in its own process; earlier results under DIR/runs are reused if the options and input files
    are the same. Written to DIR: comparison.html (everything on one page), comparison.md, means.csv, images.csv,
    sheets/, kernels.png, boxes.png.

    Exit status: 0 success; 1 a method or an image failed (the rest was written); 2 invalid options or input.
    """
    from .. import compat, launch
    launch.step_over_unbuilt_checkout()
    compat.apply()  # before basicsr is imported
    from ..bench.compare import cases, methods, views
    given = methods.load_methods(files, force_yml)
    label = methods.by_label(given, reference).label if reference is not None else given[0].label
    compat.register()
    data = cases.gather(given)
    chosen = views.parse_crops(crops, data.cases)
    comparison = _collected(given, label, data, out, fresh, ctx.meta['command'])
    _write(comparison, out, chosen, page_images)
    if not comparison.complete():
        _say_what_is_missing(comparison)
        ctx.exit(1)


def _collected(given: list[Any], label: str, data: Any, out: Path, fresh: bool, line: str) -> Comparison:  # noqa: ANN401
    from ..bench.compare import collect, runs
    root = out / 'runs'
    done = {method.label: runs.run(method, root, fresh) for method in given}
    outcomes = collect.collect(given, data, done, root)
    return collect.Comparison(given, label, done, data.cases, outcomes, runs.head(line))


def _write(comparison: Comparison, out: Path, crops: dict[str, Any], page_images: int) -> None:
    from ..bench.compare import drawings, methods, page, table, views
    table.write_tables(comparison, out)
    keys = list(comparison.cases)
    in_page, shown = set(page.spread(keys, page_images)), []
    for key, sheet in zip(keys, methods.slugs([table.image_name(comparison, key) for key in keys])):
        view = views.view(comparison, key, crops)
        if view is not None:
            drawings.save_contact_sheet(out / 'sheets' / f'{sheet}.png', comparison, view)
            shown += [page.view_data(comparison, view)] if key in in_page else []
    kernels = drawings.save_kernel_matrix(out / 'kernels.png', comparison)
    boxes = drawings.save_box_plots(out / 'boxes.png', comparison)
    page.write_page(out / 'comparison.html', comparison, shown, kernels, boxes)
    log.info(f'{out / "comparison.html"}: {len(keys)} images, {len(comparison.methods)} methods')


def _say_what_is_missing(comparison: Comparison) -> None:
    """Name the methods that lack images though their runs succeeded; of the others it has been said."""
    from ..bench.compare import table
    for label, run in comparison.runs.items():
        if run.status == 0 and any(comparison.outcome(label, key).picture is None for key in comparison.cases):
            log.warning(f'{label}: {table.state(comparison, label)}')


def _spread(args: list[str]) -> Iterator[str]:
    option = None
    for arg in args:
        if arg in LISTS:
            option = arg
            continue
        if arg.startswith('-'):
            option = None
        if option is not None:
            yield option
        yield arg
