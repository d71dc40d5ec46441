"""A device that is only played: tensors say that they lie there, and the CPU does the work.

It does what a machine without a GPU can't: it refuses to mix tensors of two devices, as a GPU does,
and keeps a list of every operation at which a GPU would be waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from maquette.common.device import Waiting

DEVICE = torch.device("meta")
aten = torch.ops.aten

SIZES = {  # operations whose result is as large as the values say
    aten.nonzero.default,
    aten.bincount.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
}
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}


class Played(Tensor):
    """A tensor of the CPU that says it lies on the played device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Played:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=DEVICE,
            requires_grad=False,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Playing.now._perform(func, args, kwargs or {})

    def __repr__(self, **options: Any) -> str:
        return f"Played({self.held})"


class Playing(TorchDispatchMode):
    """Plays the device within the block.

    waits: what a GPU would have been waited for, by the operation's name, in order. sizes: how
    often only the size of a result was waited for. lacking: dtypes that the device doesn't have.
    """

    now: Playing

    def __init__(self, *lacking: torch.dtype) -> None:
        super().__init__()
        self.lacking = lacking
        self.waits: list[str] = []
        self.sizes: list[str] = []
        self._kernels = 0

    def kernel(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, in whose place a GPU runs a kernel that waits for nothing."""

        def run(*args: Any, **kwargs: Any) -> Any:
            self._kernels += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._kernels -= 1

        return run

    def __enter__(self) -> Playing:
        Playing.now = self
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._perform(func, args, kwargs or {})

    def _perform(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        flat = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        ours = [x for x in flat if isinstance(x, Played)]
        to = kwargs.get("device")
        there = torch.device(to).type == DEVICE.type if to is not None else bool(ours)
        self._note(func, args, kwargs, flat, ours, there)
        if to is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        plain_args, plain_kwargs = pytree.tree_map_only(Played, lambda x: x.held, (args, kwargs))
        result = func(*plain_args, **plain_kwargs)
        if not there:
            return result
        made = [x.dtype for x in pytree.tree_leaves(result) if isinstance(x, Tensor)]
        if wrong := set(made) & set(self.lacking):
            raise TypeError(f"{func}: the device doesn't have {wrong}")
        known = {id(x.held): x for x in ours}
        return pytree.tree_map_only(
            Tensor, lambda x: known[id(x)] if id(x) in known else Played(x), result
        )

    def _note(
        self, func: Any, args: Any, kwargs: Any, flat: list[Tensor], ours: list[Any], there: bool
    ) -> None:
        name = str(func)
        if self._kernels:
            return
        if Waiting.depth and (func in SIZES or func in READS):
            if ours:
                self.sizes.append(name)
            return
        if func in (aten._to_copy.default, aten.copy_.default):
            onto = func is aten.copy_.default
            begins = isinstance(flat[1 if onto else 0], Played)
            ends = isinstance(flat[0], Played) if onto else there
            blocks = not kwargs.get("non_blocking", onto and len(args) > 2 and args[2])
            if begins != ends and (begins or blocks):
                self.waits.append(f"{name} {'from' if begins else 'to'} the device")
            return
        if ours and func in READS:
            self.waits.append(name)
        if ours and func in SIZES:
            self.waits.append(name)
        if ours and func in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default):
            for index in (i for i in args[1] if i is not None):
                if index.dtype in (torch.bool, torch.uint8):
                    (self.sizes if Waiting.depth else self.waits).append(f"{name} by a mask")
                elif not isinstance(index, Played):
                    self.waits.append(f"{name} by an index of the CPU")
            return
        mixed = [x for x in flat if not isinstance(x, Played) and x.ndim > 0]
        if ours and mixed:
            raise RuntimeError(f"{name}: tensors on two devices, {[tuple(x.shape) for x in flat]}")
