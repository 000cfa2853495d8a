"""``kernelfusion pca``: the PCA matrix with which DAN encodes the kernels that a training file draws."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from tqdm import tqdm

from ..atomic import ready_folder, write_atomically
from ..click_path import WeightsPath
from ..core.faults import prefixed
from ..core.kernel_families import Mixture
from ..core.kernel_pca import decode, pca_matrix
from ..core.metrics import kernel_ncc
from ..core.sections import check_number, section_of
from ..option_files import apply_force_yml, read_file

HELD_OUT = 200  # further kernels that the matrix is tested on


@click.command()
@click.option('-opt', 'opt_file', required=True, help='Option file of a training run.')
@click.option('-o', '--out', type=WeightsPath(), help="File to write. [default: the option file's "
              'network_g.pca_matrix_path]')
@click.option('--count', default=10_000, show_default=True, type=click.IntRange(1), help='Number of kernels to draw.')
@click.option('--seed', default=0, show_default=True, help='Seed of the draws.')
@click.option('--force_yml', multiple=True, metavar='SECTION:OPTION=VALUE', help='Change an option; may be repeated.')
def command(opt_file: str, out: Path | None, count: int, seed: int, force_yml: tuple[str, ...]) -> None:
    """Compute the PCA matrix, with network_g.input_para axes, of kernels drawn from datasets.train.kernels.

    Needed before training DAN or DANv2 from scratch; published weights contain theirs.
    """
    opt = read_file(opt_file)
    apply_force_yml(opt, list(force_yml))
    with prefixed(opt_file):
        network = section_of(opt, 'network_g')
        kernels = section_of(section_of(opt, 'datasets'), 'train').get('kernels')
        length, out = network.get('input_para', 10), out or network.get('pca_matrix_path')
        if kernels is None:
            raise ValueError('datasets.train.kernels must list the kernel families to draw from')
        if out is None:
            raise ValueError('it has no network_g.pca_matrix_path: give the file to write with -o')
        mixture = Mixture.from_options(kernels, 'datasets.train.kernels')
        check_number('network_g.input_para', length, 1, mixture.size ** 2, whole=True)
    if count < length:
        raise ValueError(f'--count must be at least {length}, the number of axes (network_g.input_para), got {count}')
    ready_folder(Path(out).parent, str(out))
    generator = torch.Generator().manual_seed(seed)
    drawn = (mixture.draw(generator) for _ in tqdm(range(count), 'kernels', mininterval=1))
    matrix = pca_matrix(drawn, length)
    write_atomically(out, lambda file: torch.save(matrix, file))
    fresh = torch.stack([mixture.draw(generator) for _ in range(HELD_OUT)])
    back = decode(fresh.flatten(1) @ matrix, matrix)
    correlation = torch.tensor([kernel_ncc(a, b) for a, b in zip(fresh, back, strict=True)])
    click.echo(f'{out}: {matrix.shape[0]} x {matrix.shape[1]}. Correlation of {HELD_OUT} other kernels '
               f'with their reconstructions: mean {correlation.mean():.3f}, lowest {correlation.min():.3f}')
