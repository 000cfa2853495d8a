"""The sampler of a training: whole batches, and those that are left of an epoch when it goes on, also where the data
set is no longer as large as it was."""

import pytest

from kernelfusion_plugin.resume import ResumableSampler

LEFT = {'epoch': 2, 'iter': 45}  # of 80 images, 4 in a batch: 20 are done


def indices(size, epoch, resumed=None, ranks=1, gpus=1):
    sampler = ResumableSampler(range(size), ranks, 0, seed=3, batch=4, gpus=gpus, resumed=resumed or {})
    sampler.set_epoch(epoch)
    return list(sampler)


def test_it_goes_on_behind_the_last_batch():
    whole = indices(80, 2)
    assert indices(80, 2, LEFT) == whole[20:] and len(whole) == 80
    assert [index.seed for index in indices(80, 2, LEFT)] == [index.seed for index in whole[20:]]
    assert indices(80, 3, LEFT) == indices(80, 3)  # the next epoch is whole


@pytest.mark.parametrize('size', [100, 68])
def test_no_index_comes_twice_where_the_data_set_has_changed(size):
    found = indices(size, 2, LEFT)
    assert 0 < len(set(found)) == len(found) <= size


@pytest.mark.parametrize(('size', 'ranks', 'gpus', 'batches'), [(80, 1, 1, 20), (81, 1, 1, 21), (3, 1, 1, 1),
                                                                (81, 2, 1, 11), (80, 1, 2, 20)])
def test_an_epoch_has_as_many_whole_batches_as_basicsr_counts(size, ranks, gpus, batches):
    found = indices(size, 0, ranks=ranks, gpus=gpus)
    assert len(found) == batches * 4 * gpus and set(found) <= set(range(size))
