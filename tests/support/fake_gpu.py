"""A GPU that is not there: PyTorch's own shapes, dtypes, devices and autograd on tensors without values.

Inside of `FakeGpu()`, tensors are fake (`FakeTensorMode`), and `DEVICE` is a device of the kind that PyTorch leaves to
others (PrivateUse1). What mixes devices raises, as it would on CUDA. Counted are kernels that would be launched, bytes
copied there, and `waits`: what the host could not go on without, with the line that asked.
"""

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Module(_DummyBackendModule):
    """What `torch.fakegpu` offers."""

    def get_rng_state(self, device=None):
        return None

    def set_rng_state(self, state, device=None):
        pass


_setup_privateuseone_for_python_backend("fakegpu", _Module())
DEVICE = torch.device("fakegpu", 0)
ROOT = Path(__file__).parents[2]

aten = torch.ops.aten
# How many values come out depends on the values.
WAITS = {aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim, aten.unique_consecutive}
NO_KERNEL = {aten.empty, aten.empty_strided, aten.empty_like, aten.new_empty, aten.new_empty_strided, aten.detach,
             aten.lift_fresh, aten._unsafe_view, aten.is_pinned}  # fmt: skip
INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


def on_gpu(x):
    return isinstance(x, torch.Tensor) and x.device.type == DEVICE.type


class FakeGpu(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)  # what comes from numpy is real at first
        self.clear()

    def clear(self):
        """Count from here."""
        self.launches, self.waits, self.copied = Counter(), Counter(), 0

    def counts(self):
        """What was asked since `clear`, ready for JSON."""
        return {"launches": self.launches.total(), "waits": dict(self.waits), "copied": self.copied}

    def __enter__(self):
        self._kept = FakeTensor.__dict__.get("numpy"), FakeTensor.__dict__.get("tolist")
        FakeTensor.numpy = lambda x, **_: self._values(x)
        FakeTensor.tolist = lambda x: self._values(x).tolist()
        self._lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self.fake.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.fake.__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._lifted)
        for name, method in zip(("numpy", "tolist"), self._kept, strict=True):
            delattr(FakeTensor, name) if method is None else setattr(FakeTensor, name, method)

    def place(self, module):
        """A module that was made on the CPU, as its `to(DEVICE)` would leave it."""
        known = {}
        for part in module.modules():
            for table in (part._parameters, part._buffers):
                for name, value in table.items():
                    if value is not None:
                        if id(value) not in known:
                            there = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
                            parameter = isinstance(value, torch.nn.Parameter)
                            known[id(value)] = torch.nn.Parameter(there, value.requires_grad) if parameter else there
                        table[name] = known[id(value)]
        return module

    def waited(self, why):
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT)]
        frames = [f for f in frames if ".venv" not in f.filename and Path(f.filename).name != Path(__file__).name]
        at = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno} {frames[-1].line}" if frames else "?"
        self.waits[f"{why}: {at}"] += 1

    def _values(self, x):
        """Zeros in the place of values that nobody computed."""
        if on_gpu(x):
            self.waited("values asked for")
        with _disable_current_modes():
            return torch.zeros(x.shape, dtype=x.dtype).numpy()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, packet = kwargs or {}, func.overloadpacket
        if packet is aten.is_pinned:
            return getattr(args[0], "pinned", False)
        if packet is aten._pin_memory:
            out = args[0].clone()
            out.pinned = True
            return out
        if packet is aten._local_scalar_dense:
            if on_gpu(args[0]):
                self.waited("value asked for")
            return 0.0 if on_gpu(args[0]) and args[0].is_floating_point() else 1.0 if args[0].is_floating_point() else 0
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        for x in given:
            if isinstance(x, FakeTensor):
                x.constant = None  # no number is known here, however small
        out = func(*args, **kwargs)
        if packet in (aten._to_copy, aten.copy_):
            source, target = (args[0], out) if packet is aten._to_copy else (args[1], args[0])
            at_once = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
            if on_gpu(source) and not on_gpu(target):
                self.waited("copied to the host")
            elif on_gpu(target) and not on_gpu(source):
                self.copied += source.numel() * source.element_size()
                if not (at_once and getattr(source, "pinned", False)):
                    self.waited("copied from memory that is not pinned" if at_once else "copied while the host waits")
        elif packet in WAITS and any(map(on_gpu, given)):
            self.waited(f"{packet.__name__} has as many values as it finds")
        elif packet is aten.repeat_interleave and func is aten.repeat_interleave.Tensor and any(map(on_gpu, given)):
            if kwargs.get("output_size") is None:
                self.waited("repeat_interleave has as many values as it finds")
        elif packet in INDEXED and on_gpu(args[0]):
            index = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in index):
                self.waited("indexed by a mask")
            if not all(map(on_gpu, index)):
                self.waited("indexed from the host")
        self._count(func, packet, given, out)
        return out

    def _count(self, func, packet, given, out):
        if not any(map(on_gpu, [*given, *tree_leaves(out)])):
            return
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if not view and packet not in NO_KERNEL and func.namespace != "prim":
            self.launches[str(func)] += 1


def cuda_attention(query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    """What `scaled_dot_product_attention` calls on CUDA: flash without a mask in 16 bits, else the efficient kernel.

    The former takes fewer key heads than query heads. The latter does not, and wants a mask as a bias whose rows begin
    at multiples of eight values. What neither takes would be computed step by step, and raises here.
    """
    if attn_mask is None and query.dtype.itemsize == 2:
        assert enable_gqa or query.shape[1] == key.shape[1]
        return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal, False, scale=scale)[0]
    assert query.shape[1] == key.shape[1], "the efficient kernel takes no grouped queries"
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, float("-inf"))
        length = attn_mask.shape[-1]
        if any(stride % 8 for stride in attn_mask.stride()[:-1]):
            attn_mask = torch.nn.functional.pad(attn_mask, (0, -length % 8))[..., :length]
        attn_mask = attn_mask.expand(*query.shape[:-1], length)
    needs = query.requires_grad or key.requires_grad
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, needs, 0.0, is_causal, scale=scale
    )[0]
