"""Several processes that train one network together, as ``torchrun`` starts them (data parallel).

Each process takes its share of every batch and adds its gradients to the others', so batch, learning rate and number of
steps mean what they mean in one process. Gradients are added after the backward pass, not during it: a process that
runs out of memory in the middle of a pass can take it again in smaller parts, and none of the others notices.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edge_runtime.errors import InputError, RunError

SMALLEST_PART = 2
"""Images: batch normalisation cannot take one alone."""
TIMEOUT = datetime.timedelta(minutes=30)
"""How long a process waits for the others: as long as the slowest of them may read the data."""


@dataclass(frozen=True)
class Group:
    """This process among ``size`` that train together; alone by default, where adding and sending do nothing."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """Return which of ``count`` images this process takes: none, or at least two if there are as many."""
        takers = min(self.size, max(1, count // SMALLEST_PART))
        if self.rank >= takers:
            return slice(count, count)
        return slice(count * self.rank // takers, count * (self.rank + 1) // takers)

    def check_batch(self, batch: int) -> None:
        """Raise InputError for batches in which a process would find nothing to do."""
        if batch < SMALLEST_PART * self.size:
            raise InputError(
                f"{self.size} processes share batches of {batch} images, and each needs {SMALLEST_PART}; start at "
                f"most {batch // SMALLEST_PART} of them or pass --batch {SMALLEST_PART * self.size}"
            )

    def check_same(self, what: bytes) -> None:
        """Raise RunError unless ``what`` each process has made for itself is the same in all."""
        if self.size > 1:
            number = int.from_bytes(hashlib.sha256(what).digest()[:6], "big")
            sent = torch.tensor([number], dtype=torch.float64)  # exact below 2 ** 53
            self.send([sent])
            others = self.summed(torch.tensor([float(int(sent) != number)]))
            if others.any():
                raise RunError(
                    f"{int(others)} of {self.size} processes differ from the first in data, options or pruning; start "
                    "all of them with the same command, data and release"
                )

    def add_gradients(self, model: nn.Module) -> None:
        """Replace every gradient by the sum over the processes, in one message."""
        if self.size == 1:
            return
        wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in wanted:
            if parameter.grad is None:  # no images here
                parameter.grad = torch.zeros_like(parameter)
        self._add([parameter.grad for parameter in wanted if parameter.grad is not None])

    def average_statistics(self, model: nn.Module) -> None:
        """Replace batch normalisation's running statistics by their mean over the processes."""
        statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self.size > 1 and statistics:
            self._add(statistics)
            for buffer in statistics:
                buffer.div_(self.size)

    def summed(self, values: Tensor) -> Tensor:
        """Return ``values`` summed over the processes."""
        total = values.clone()
        if self.size > 1:
            with _company():
                dist.all_reduce(total)
        return total

    def send(self, tensors: Iterable[Tensor]) -> None:
        """Give every process the first one's values, in place."""
        if self.size > 1:
            with _company():
                for tensor in tensors:
                    whole = tensor.detach().contiguous()
                    dist.broadcast(whole, src=0)
                    tensor.detach().copy_(whole)

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            with _company():
                dist.barrier()

    def _add(self, tensors: Sequence[Tensor]) -> None:
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        with _company():
            dist.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.detach().copy_(part.view(tensor.shape))


def current() -> Group:
    """Return the group that this process has joined, or that of a process alone."""
    if dist.is_available() and dist.is_initialized():
        return Group(dist.get_rank(), dist.get_world_size())
    return Group()


def launched() -> int:
    """Return how many processes ``torchrun`` has started for this job; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def refuse(what: str) -> None:
    """Raise InputError where torchrun started several processes for ``what``, which one process does alone."""
    if launched() > 1:
        raise InputError(f"{what} works in one process, torchrun started {launched()}; start it without torchrun")


@contextlib.contextmanager
def joined(device: str) -> Iterator[Group]:
    """Join the processes that torchrun started beside this one, and leave them at the end; do nothing without torchrun.

    ``device`` is cpu, cuda or auto; on CUDA every process of a machine takes one GPU. Raises InputError for more
    processes than GPUs, RunError where the processes do not find one another.
    """
    if launched() == 1:
        yield Group()
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _take_gpu(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"the {launched()} processes of this training do not find one another ({_line(error)}); start them all by "
            "torchrun"
        ) from error
    yield current()
    # Not after an error: leaving waits for the others, who may wait for this one.
    dist.destroy_process_group()


def _take_gpu(number: int) -> None:
    count = torch.cuda.device_count()
    if number >= count:
        raise InputError(
            f"this machine has {count} GPUs, torchrun started process {number + 1}; pass --nproc-per-node {count} to "
            "torchrun, or --device cpu"
        )
    torch.cuda.set_device(number)


@contextlib.contextmanager
def _company() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RunError(
            f"another process of this training ended ({_line(error)}); the last complete epoch is kept: start all of "
            "them again with --resume"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
