"""BasicSR's ``--launcher pytorch`` and ``--launcher slurm``, made to work without a GPU and with independent ranks.

BasicSR 1.4.2 divides by the number of GPUs and supports only nccl. It also spawns data loader workers, which import
everything again in each epoch and fail without our start-up hook; forked workers, as in its single-process runs, do
neither. For our runs, :func:`init_dist` replaces its function of the same name.
"""

from __future__ import annotations

import datetime
import itertools
import os
import subprocess
from collections.abc import Mapping

import torch
import torch.distributed as dist

from .core.faults import first_line

PATIENCE = datetime.timedelta(minutes=30)  # for which ranks wait for one another, at the start only

_store: dist.Store | None = None
_signs = itertools.count()  # numbers the calls of after_rank_0


def init_dist(launcher: str, backend: str = 'nccl', port: int | None = None) -> None:
    """Join the process group as one rank: nccl for GPUs, gloo for CPUs.

    The rank uses GPU number ``LOCAL_RANK``, modulo the number of visible GPUs, so that ranks may share one.

    Args:
        launcher: ``pytorch``: ``torchrun`` has set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT;
            ``slurm``: they are derived from the variables that ``srun`` has set.
        backend: BasicSR's ``dist_params: backend``; always gloo without a GPU.
        port: BasicSR's ``dist_params: port``, for slurm.

    Raises:
        ValueError: the process was not started by that launcher, or the ranks cannot connect.
    """
    global _store
    if launcher == 'slurm':
        os.environ.update(slurm_environment(os.environ, port))
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing:
        raise ValueError(f'--launcher {launcher} is for processes started by torchrun: {", ".join(missing)} not set')
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', os.environ['RANK'])) % gpus)
        backend = 'cpu:gloo,cuda:nccl' if backend == 'nccl' else backend  # chosen by each tensor's device
    try:
        store, rank, size = next(dist.rendezvous('env://', timeout=PATIENCE))
        # torchrun keeps its store when it restarts all ranks: do not read what earlier attempts have written
        _store = dist.PrefixStore(f'attempt {os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)
        dist.init_process_group(backend if gpus else 'gloo', store=_store, rank=rank, world_size=size)
    except RuntimeError as error:
        place = f'{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}'
        raise ValueError(f'the ranks cannot connect at {place}: {first_line(error)}') from error


def slurm_environment(environment: Mapping[str, str], port: int | None = None) -> dict[str, str]:
    """torch's environment variables for a task started by ``srun``.

    Ranks connect at MASTER_ADDR, or else the job's first node. The port is ``port``, MASTER_PORT, or else derived from
    the job's number, so that two jobs on one node do not collide.

    Raises:
        ValueError: the task was not started by srun, or ``scontrol`` does not tell the first node.
    """
    try:
        rank, size, local = (environment[f'SLURM_{name}'] for name in ('PROCID', 'NTASKS', 'LOCALID'))
        nodes = environment['SLURM_NODELIST']
    except KeyError as error:
        raise ValueError(f'--launcher slurm is for processes started by srun: {error.args[0]} is not set') from None
    address = environment.get('MASTER_ADDR') or _first_node(nodes)
    number = 20000 + int(environment.get('SLURM_JOB_ID', 0)) % 20000
    return {'RANK': rank, 'WORLD_SIZE': size, 'LOCAL_RANK': local, 'MASTER_ADDR': address,
            'MASTER_PORT': str(port or environment.get('MASTER_PORT') or number)}


def _first_node(nodes: str) -> str:
    if not set('[,') & set(nodes):
        return nodes
    try:
        listed = subprocess.run(['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, timeout=60,
                                check=True).stdout.split()
        return listed[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        raise ValueError(f'scontrol does not tell the first node of {nodes}: set MASTER_ADDR to it') from None


def check_alone(environment: Mapping[str, str]) -> None:
    """Check a run without ``--launcher``.

    Raises:
        ValueError: torchrun has started several processes, each of which would rename the others' results.
    """
    count = environment.get('WORLD_SIZE', '1')
    if 'TORCHELASTIC_RUN_ID' in environment and count != '1':
        raise ValueError(f'torchrun has started {count} processes, but they only work together with --launcher pytorch')


def after_rank_0(rank: int) -> None:
    """Rank 0 sends a signal and goes on; the others wait for it. A rank that has died keeps none waiting.

    Raises:
        ValueError: rank 0 ended before it sent the signal.
    """
    sign = f'kernelfusion/ready/{next(_signs)}'
    if _store is None:  # the group was created elsewhere
        dist.barrier()
    elif rank == 0:
        _store.set(sign, b'1')
    else:
        try:
            _store.wait([sign], PATIENCE)
        except RuntimeError:
            raise ValueError(f'rank {rank}: rank 0 ended before the work began') from None
