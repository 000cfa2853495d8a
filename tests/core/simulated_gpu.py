"""An accelerator that is none: tensors in the processor's memory that say they are on a GPU, and keep to it.

Inside :func:`simulated`, what is sent to ``cuda``, or made there, is computed on the CPU, but as with CUDA an operator
that is given tensors of both devices fails, and so does one whose generator is on another device than its result.
A scalar on the CPU (a tensor without dimensions) may go with tensors on the GPU, indices on the CPU may index them, and
``copy_`` and ``to`` go between devices; all else fails.

A tensor on the GPU is a wrapper whose device is ``meta`` for PyTorch's own code, which needs no driver for that, takes
its gradients and passes the device on to what it makes on the way; for Python it is ``cuda:0``.
"""

import collections
import contextlib
import unittest.mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, CPU, META = torch.device('cuda', 0), torch.device('cpu'), torch.device('meta')
aten = torch.ops.aten
BETWEEN = {aten._to_copy, aten.copy_, aten.copy}
INDEXING = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}
ASKING = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.is_nonzero}
FROM_NUMBERS = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}
LAZY = {aten._conj.default: aten._conj_physical.default}  # what it marks is not seen through the wrapper
GIGABYTE = 10 ** 9
waits = collections.Counter()  # operators for which a GPU's queue is waited for, by name


class OnGpu(torch.Tensor):
    """A tensor that says it is on the GPU; ``held`` is the one on the CPU that has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype,
                                                   storage_offset=held.storage_offset(), device=META)

    def __init__(self, held):
        self.held = held

    def __repr__(self):
        return f'OnGpu({self.held})'

    def tolist(self):
        waits['tolist'] += 1
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """An operator on the CPU, its result on the device where the GPU would have it."""
    tensors = [value for value in _flat((*args, *kwargs.values())) if isinstance(value, torch.Tensor)]
    gpu, device = any(type(tensor) is OnGpu for tensor in tensors), kwargs.get('device')
    if not gpu and (device is None or device.type != 'meta'):
        return func(*args, **kwargs)
    if gpu and func.overloadpacket not in BETWEEN:
        check(func, args, kwargs)
    waits[func.overloadpacket._qualified_op_name] += (
        func.overloadpacket in ASKING or (func.overloadpacket in BETWEEN and _crosses(tensors, device))
        or (func.overloadpacket == aten.index and any(tensor.dtype == torch.bool for tensor in tensors)))
    if device is not None:
        gpu, kwargs = device.type == 'meta', {**kwargs, 'device': CPU}
    given = {id(_held(tensor)): tensor for tensor in tensors}  # an operator in place gives back what it was given
    result = LAZY.get(func, func)(*map(_held, args), **{name: _held(value) for name, value in kwargs.items()})
    if torch.Tag.inplace_view in func.tags:
        with no_dispatch():
            func(*args, **kwargs)  # the wrapper's own shape

    def place(value):
        if isinstance(value, torch.Tensor):
            return given[id(value)] if id(value) in given else OnGpu(value) if gpu else value
        return type(value)(map(place, value)) if isinstance(value, (list, tuple)) else value

    return place(result)


def _crosses(tensors, device):
    """Whether a copy, to ``device`` or to the first tensor's, goes from one device to the other."""
    there = type(tensors[0]) is OnGpu if device is None else device.type == 'meta'
    return any((type(tensor) is OnGpu) != there for tensor in tensors)


def check(func, args, kwargs):
    """RuntimeError unless the tensors may be on different devices. At least one is on the GPU."""
    values = [*args, *kwargs.values()]
    if func.overloadpacket in INDEXING and type(args[0]) is OnGpu:
        values = [args[0], *args[2:]]
    for place, value in enumerate(values):
        joined = isinstance(value, (list, tuple))  # scalars are no exception there, nor where the result goes
        for tensor in value if joined else [value]:
            if (isinstance(tensor, torch.Tensor) and type(tensor) is not OnGpu
                    and (tensor.ndim or joined or (place == 0 and func._schema.is_mutable))):
                raise RuntimeError(f'Expected all tensors to be on the same device, but found at least two devices, '
                                   f'cuda:0 and cpu! (in {func})')


def _flat(values):
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


def _held(value):
    """What is computed with in place of ``value``."""
    if isinstance(value, (list, tuple)):
        return [_held(part) for part in value]
    return value.held if type(value) is OnGpu else value


class _Operators(TorchDispatchMode):
    """Sees the operators that no tensor on the GPU takes part in: those that make one."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class _Calls(TorchFunctionMode):
    """What has to be seen before PyTorch's own code reads the arguments: devices by name, generators, numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        device = kwargs.get('device')
        if device is None and args and isinstance(args[0], torch.Tensor):
            device = args[0].device
        if kwargs.get('generator') is not None:
            wanted, found = torch.device(device or CPU).type, kwargs['generator'].device.type
            if wanted != found:
                raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}'")
        if _own(device) == META and func in FROM_NUMBERS and not isinstance(args[-1], torch.Tensor):
            like = {'dtype': args[0].dtype} if func is torch.Tensor.new_tensor else {}
            return torch.tensor(args[-1], **{**like, **kwargs, 'device': CPU}).to(META)
        return func(*map(_own, args), **{name: _own(value) for name, value in kwargs.items()})


def _own(value):
    """``meta`` in place of ``cuda``."""
    named = isinstance(value, torch.device) or (isinstance(value, str) and value.startswith('cuda'))
    return META if named and torch.device(value).type == 'cuda' else value


class _Generator(torch.Generator):
    """A generator that says which device it was made for; its numbers are the CPU's."""

    def __new__(cls, device='cpu'):
        return super().__new__(cls, 'cpu')

    def __init__(self, device='cpu'):
        self._made_for = torch.device(device)

    device = property(lambda self: self._made_for)


def _backward(*args, run_backward=torch.autograd._engine_run_backward, **kwargs):
    """What a way back computes anew is seen too: a mode is off while it handles a call, ``backward()`` for one."""
    with _Calls():
        return run_backward(*args, **kwargs)


@contextlib.contextmanager
def simulated(capability=(7, 5), memory=40 * GIGABYTE):
    """A block in which there is a GPU, ``cuda``. Its numbers are the CPU's: a generator gives the same on both."""
    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter's data cannot be exchanged
    try:
        with (unittest.mock.patch.object(torch, 'Generator', _Generator),
              unittest.mock.patch.object(torch.cuda, 'get_device_capability', lambda device=None: capability),
              unittest.mock.patch.object(torch.cuda, 'mem_get_info', lambda device=None: (memory, memory)),
              unittest.mock.patch.object(torch.autograd, '_engine_run_backward', _backward),
              _Calls(), _Operators()):
            yield CUDA
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
