"""Who does which image: the division by size, and processes that know each other by files alone."""

import itertools
import math
import random

import pytest

from kernelfusion_plugin.distributed import slurm_environment
from kernelfusion_plugin.sharing import Outcome, Worker, order, parse_shard, parts


def best_possible(sizes, count):
    """The least largest sum, by trying all divisions."""
    return min(max(sum(size for size, owner in zip(sizes, owners) if owner == part) for part in range(count))
               for owners in itertools.product(range(count), repeat=len(sizes)))


def test_parts_are_about_equal():
    rng = random.Random(0)
    for count in (1, 2, 3):
        for _ in range(20):
            sizes = [rng.choice((1, 5, 30)) * rng.random() for _ in range(rng.randrange(1, 9))]
            divided = parts(sizes, count)
            assert sorted(sum(divided, [])) == list(range(len(sizes)))
            largest = max(sum(sizes[place] for place in part) for part in divided)
            assert largest <= (4 / 3 - 1 / (3 * count)) * best_possible(sizes, count) + 1e-12
            assert all(sizes[a] >= sizes[b] for part in divided for a, b in zip(part, part[1:]))
    assert parts([0] * 6, 3) == [[0, 3], [1, 4], [2, 5]]  # sizes that nobody knows


def test_own_part_first_then_all_that_is_left():
    sizes = [3, 9, 1, 7, 5]
    for rank in range(2):
        mine = parts(sizes, 2)[rank]
        places = order(sizes, rank, 2)
        assert places[:len(mine)] == mine and sorted(places) == list(range(5))
        helps = [sizes[place] for place in places[len(mine):]]
        assert helps == sorted(helps, reverse=True)


@pytest.fixture
def ranks(tmp_path):
    """Three ranks at work."""
    workers = [Worker(tmp_path, rank, 3) for rank in range(3)]
    workers[0].prepare()
    for worker in workers:
        worker.join()
    yield workers
    for worker in workers:
        worker.leave()


def test_locks_that_are_not_seen_are_spoken_of(ranks, monkeypatch):
    """On other machines than rank 0's; not where rank 0 has closed the run."""
    ranks[1].check_locks()
    monkeypatch.setattr('kernelfusion_plugin.sharing.is_locked', lambda path: False)
    with pytest.raises(ValueError, match="rank 0's lock is not visible to rank 1.* flock"):
        ranks[1].check_locks()
    ranks[0].close()
    ranks[1].check_locks()


def test_an_image_is_begun_once(ranks):
    assert ranks[1].take(0, 4) and ranks[2].take(1, 4)
    assert not any(worker.take(0, 4) for worker in ranks)
    ranks[1].leave()  # as its death would
    assert not ranks[0].take(0, 4), 'perhaps it died of that image: it is left to the next run'
    assert ranks[0].taker(0, 4) == 1 and ranks[0].taker(0, 5) is None


def test_every_rank_sees_the_outcomes_of_all(ranks):
    row = {'dataset': 'd', 'image': 'a', 'psnr': math.pi, 'ssim': math.inf, 'seed': 3, 'solver': 'em'}
    ranks[2].put(0, 1, Outcome(row, seconds=0.1))
    ranks[0].put(0, 0, Outcome(None, ['a.png: empty']))
    for worker in ranks:
        found = worker.outcomes()
        assert list(found) == [(0, 0), (0, 1)] and found[0, 0].faults == ['a.png: empty'] and found[0, 0].row is None
        assert found[0, 1] == Outcome(row, [], 2, 0.1) and type(found[0, 1].row['seed']) is int


def test_the_lowest_rank_that_lives_closes_the_run(ranks, tmp_path):
    assert [worker.closes() for worker in ranks] == [True, False, False] and ranks[0].others() == [1, 2]
    ranks[0].leave()
    assert ranks[1].closes() and not ranks[2].closes()
    ranks[2].leave()
    assert ranks[1].others() == []
    ranks[1].close()
    assert list(tmp_path.iterdir()) == []


def test_who_comes_late_finds_nothing_to_do(ranks, tmp_path):
    for worker in ranks[1:]:
        worker.leave()
    ranks[0].close()
    late = Worker(tmp_path, 2, 3)
    late.join()
    assert not late.take(0, 0) and not late.closes() and list(tmp_path.iterdir()) == []


def test_a_new_run_begins_with_nothing_taken(ranks):
    ranks[1].take(0, 0)
    ranks[1].put(0, 0, Outcome(None))
    anew = Worker(ranks[0].folder.parent, 0, 1)
    anew.prepare()
    anew.join()
    assert anew.outcomes() == {} and anew.take(0, 0)


def test_shards():
    assert parse_shard('3/8') == (3, 8) and parse_shard('1/1') == (1, 1)
    for wrong in ('0/8', '9/8', '3', 3, '3/', '-1/8', '3/8/2'):
        with pytest.raises(ValueError, match='shard must be'):
            parse_shard(wrong)


def test_slurm_without_scontrol():
    task = {'SLURM_PROCID': '3', 'SLURM_NTASKS': '4', 'SLURM_LOCALID': '1', 'SLURM_NODELIST': 'node7',
            'SLURM_JOB_ID': '123456'}
    made = slurm_environment(task)
    assert made == {'RANK': '3', 'WORLD_SIZE': '4', 'LOCAL_RANK': '1', 'MASTER_ADDR': 'node7', 'MASTER_PORT': '23456'}
    assert slurm_environment(task, port=1234)['MASTER_PORT'] == '1234'
    assert slurm_environment({**task, 'MASTER_PORT': '99', 'MASTER_ADDR': 'x'})['MASTER_PORT'] == '99'
    with pytest.raises(ValueError, match='MASTER_ADDR'):
        slurm_environment({**task, 'SLURM_NODELIST': 'node[7-8]', 'PATH': ''})
    with pytest.raises(ValueError, match='srun'):
        slurm_environment({})
