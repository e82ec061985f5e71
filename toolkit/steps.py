"""Gradients of one batch: attacked, in mixed precision, compiled, in parts that fit into memory."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_runtime.manifest import InputSpec
from toolkit import recipes
from toolkit.adversarial import pgd, start_noise
from toolkit.distributed import SMALLEST_PART, Group
from toolkit.recipes import TrainConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Normalised images [N, 3, H, W] and their labels [N]: this process's share of ``whole`` images."""

    images: Tensor
    labels: Tensor
    whole: int


@dataclass
class Network:
    """The network in training and what the passes through it have taught.

    ``parts`` is into how many parts a batch is cut so that it fits into memory; ``compiled`` is the network compiled,
    None where it is not worth it or does not work.
    """

    model: nn.Module
    config: TrainConfig
    spec: InputSpec
    group: Group = field(default_factory=Group)
    parts: int = 1
    compiled: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def part_size(self, images: int) -> int:
        """Return how many of ``images`` go through the network together."""
        return max(1, -(-images // self.parts))

    def for_images(self, count: int) -> nn.Module:
        """Return the compiled network for full parts; smaller ones, which come once an epoch, are not compiled for."""
        own = self.group.share(self.config.batch)
        full = self.part_size(own.stop - own.start)
        return self.model if self.compiled is None or count != full else self.compiled


def prepared(model: nn.Module, config: TrainConfig, spec: InputSpec, group: Group, steps: int) -> Network:
    """Return ``model`` ready for ``steps`` steps an epoch, compiled if the config says so."""
    network = Network(model, config, spec, group)
    attack = config.adversarial.steps if config.adversarial is not None else 0
    if recipes.COMPILE[config.compile](network.device, config.epochs * steps * (1 + attack)):
        network.compiled = torch.compile(model, dynamic=False)
    return network


def gradients(network: Network, batch: Batch, generator: torch.Generator) -> Tensor:
    """Leave the gradients of the whole batch's mean loss in the parameters.

    Returns the sums of loss and of right answers [2] over this process's images, as float64. ``generator`` (CPU) draws
    where attacks start. A batch that does not fit into memory is cut in halves, and again.
    """
    noise = _noise(network, batch, generator)
    while True:
        try:
            sums = _passes(network, batch, noise)
            break
        except Exception as error:
            if not _avoidable(network, len(batch.labels), error):
                raise
        # Outside the handler, which would keep the failed pass's tensors alive.
        if network.device.type == "cuda":
            torch.cuda.empty_cache()
    network.group.add_gradients(network.model)
    return sums


def out_of_memory(error: BaseException) -> bool:
    """Tell whether ``error`` is an allocation that failed, on any device; PyTorch has no type for the CPU's."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _avoidable(network: Network, images: int, error: Exception) -> bool:
    """Change what made a pass fail, and say so; return False where nothing can be changed."""
    if out_of_memory(error):
        size = -(-images // (2 * network.parts))
        if size < SMALLEST_PART:
            return False
        network.parts *= 2
        logger.warning("out of memory: batches of %d go in parts of %d from now on", network.config.batch, size)
        return True
    if network.compiled is not None:
        network.compiled = None
        line = " ".join(str(error).split())[:200]
        logger.warning("training goes on without compiling (%s: %s)", type(error).__name__, line)
        return True
    return False


def _noise(network: Network, batch: Batch, generator: torch.Generator) -> Tensor | None:
    """Draw for the whole batch, so that any number of processes start the same attacks."""
    attack = network.config.adversarial
    if attack is None or not attack.random_start:
        return None
    noise = start_noise((batch.whole, *batch.images.shape[1:]), generator)
    return noise[network.group.share(batch.whole)]


def _passes(network: Network, batch: Batch, noise: Tensor | None) -> Tensor:
    """Add up the gradients of the batch's parts; their losses count by their images."""
    kind = network.device.type
    total = torch.zeros(2, device=network.device, dtype=torch.float64)
    network.model.zero_grad(set_to_none=True)
    size = network.part_size(len(batch.labels))
    for start in range(0, len(batch.labels), size):
        part = slice(start, start + size)
        inputs, wanted = batch.images[part], batch.labels[part]
        model = network.for_images(len(wanted))
        with torch.autocast(kind, torch.bfloat16, enabled=kind in network.config.amp):
            if network.config.adversarial is not None:
                own = None if noise is None else noise[part]
                inputs = pgd(model, inputs, wanted, network.config.adversarial, network.spec, own)
            logits = model(inputs).float()
        loss = F.cross_entropy(logits, wanted, label_smoothing=network.config.label_smoothing)
        (loss if len(wanted) == batch.whole else loss * (len(wanted) / batch.whole)).backward()
        total += torch.stack([loss.detach() * len(wanted), (logits.argmax(1) == wanted).sum()])
    return total
