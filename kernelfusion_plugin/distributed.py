"""BasicSR's ``--launcher pytorch`` and ``--launcher slurm`` as they should be: without a GPU too, each rank on its own.

BasicSR 1.4.2 divides by the number of GPUs and knows no engine but nccl. It also has the workers of data sets spawned,
which import everything anew for each epoch, and without our start-up hook fail; forked ones, as in its runs of one
process, need neither. :func:`init_dist` takes the place of its function of that name, for our runs.
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

PATIENCE = datetime.timedelta(minutes=30)  # that ranks wait for one another, at the start only

_store: dist.Store | None = None
_signs = itertools.count()  # of after_rank_0


def init_dist(launcher: str, backend: str = 'nccl', port: int | None = None) -> None:
    """Make this process one of the ranks of a group: nccl between GPUs, gloo between processors.

    GPU number ``LOCAL_RANK`` becomes this rank's (modulo the GPUs that it sees, so that ranks may share one).

    Args:
        launcher: ``pytorch``: ``torchrun`` has set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT;
            ``slurm``: they are made from what ``srun`` has set.
        backend: BasicSR's ``dist_params: backend``; without GPU it is gloo.
        port: BasicSR's ``dist_params: port``, for slurm.

    Raises:
        ValueError: the process was not started by that launcher, or the ranks do not find one another.
    """
    global _store
    if launcher == 'slurm':
        os.environ.update(slurm_environment(os.environ, port))
    missing = [name for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT') if name not in os.environ]
    if missing:
        raise ValueError(f'--launcher {launcher} is for processes that torchrun starts: {", ".join(missing)} not set')
    gpus = torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(int(os.environ.get('LOCAL_RANK', os.environ['RANK'])) % gpus)
        backend = 'cpu:gloo,cuda:nccl' if backend == 'nccl' else backend  # each tensor by the engine of its device
    try:
        store, rank, size = next(dist.rendezvous('env://', timeout=PATIENCE))
        # torchrun keeps its store when it starts all ranks again: what those before have written must not be found
        _store = dist.PrefixStore(f'attempt {os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store)
        dist.init_process_group(backend if gpus else 'gloo', store=_store, rank=rank, world_size=size)
    except RuntimeError as error:
        place = f'{os.environ["MASTER_ADDR"]}:{os.environ["MASTER_PORT"]}'
        raise ValueError(f'the ranks do not find one another at {place}: {first_line(error)}') from error


def slurm_environment(environment: Mapping[str, str], port: int | None = None) -> dict[str, str]:
    """torch's variables for a task that ``srun`` started.

    The meeting point is the job's first node, unless MASTER_ADDR says another; the port, unless it is given or
    MASTER_PORT is set, follows from the job's number, so that two jobs on one node do not meet.

    Raises:
        ValueError: srun did not start it, or ``scontrol`` does not tell the first node.
    """
    try:
        rank, size, local = (environment[f'SLURM_{name}'] for name in ('PROCID', 'NTASKS', 'LOCALID'))
        nodes = environment['SLURM_NODELIST']
    except KeyError as error:
        raise ValueError(f'--launcher slurm is for processes that srun starts: {error.args[0]} is not set') from None
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
        raise ValueError(f'scontrol does not say which is the first node of {nodes}: set MASTER_ADDR to it') from None


def check_alone(environment: Mapping[str, str]) -> None:
    """For a run without ``--launcher``.

    Raises:
        ValueError: torchrun has started it several times: each would rename the others' results.
    """
    count = environment.get('WORLD_SIZE', '1')
    if 'TORCHELASTIC_RUN_ID' in environment and count != '1':
        raise ValueError(f'torchrun has started {count} processes, which need --launcher pytorch to work together')


def after_rank_0(rank: int) -> None:
    """Rank 0 gives a sign, and goes on; the others wait for it. Ranks that have died keep nobody waiting.

    Raises:
        ValueError: rank 0 ended before it gave the sign.
    """
    sign = f'kernelfusion/ready/{next(_signs)}'
    if _store is None:  # the group was made by somebody else
        dist.barrier()
    elif rank == 0:
        _store.set(sign, b'1')
    else:
        try:
            _store.wait([sign], PATIENCE)
        except RuntimeError:
            raise ValueError(f'rank {rank}: rank 0 ended before the work began') from None
