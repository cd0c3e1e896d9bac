"""Masks of channels in the graph: one for each weight that hangs on them, changed together.

A weight's mask is the product of those along its axes. What is kept of a channel is read off these
masks, so that there is nothing else to save or to restore.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_compress.engines.in_place.channels.groups import Slot
from keras_compress.engines.in_place.channels.hanging import NONE, HangingWeight
from keras_compress.engines.in_place.channels.plan import ChannelPlan
from keras_compress.engines.in_place.channels.remaining import RemainingWeights, remaining
from keras_compress.engines.in_place.channels.scores import (
    highest,
    highest_of_all,
    kept_count,
    powers,
)
from keras_compress.engines.masks import (
    Pruner,
    Target,
    by_schedule,
    is_late,
    sparsity_at,
    zero_where_dropped,
)
from keras_compress.frameworks.adapter import Adapter
from keras_compress.specs.pruning import Pruning
from keras_compress.specs.schedules import Schedule


@dataclasses.dataclass(eq=False)
class MaskedGroup:
    """A group under pruning: the channels of numbers `start` .. `start + size - 1`."""

    path: str
    """The first of the layers that make them."""
    start: int
    size: int
    schedule: Schedule
    weights: list[HangingWeight] = dataclasses.field(default_factory=list)

    @property
    def trainable(self) -> bool:
        return all(each.trainable for each in self.weights)

    @property
    def started(self) -> bool:
        return all(each.started for each in self.weights)


class ChannelPruner(Pruner):
    """The masks of all channels of one model."""

    shrinks = True

    def __init__(self, adapter: Adapter, spec: Pruning, plan: ChannelPlan):
        self.spec = spec
        self.channels = plan.channels
        self.groups: list[MaskedGroup] = []
        self.numbers = np.full(plan.channels.count, NONE)
        """Of each id of the channel map."""
        self.makers = list(plan.schedules)
        start = 0
        for group in plan.groups:
            for number, member in enumerate(group.members, start):
                self.numbers[member] = number
            path = group.layers[0]
            size = len(group.members)
            self.groups.append(MaskedGroup(path, start, size, plan.schedules[path]))
            start += size
        self.count = start
        weights = self._weights(adapter, plan)
        self._witnesses = _witnesses(weights, self.count)
        self._scored = self._scores_of(plan.channels.slots)
        self.hanging = weights
        self.remaining = [] if plan.kernels is None else remaining(adapter, plan.kernels, weights)
        super().__init__([*weights, *self.remaining], by_begin_step=False)
        self._by_kernel: dict[int, list[Target]] = {}
        """Its masks, for one pass over each weight in every step."""
        for target in self.targets:
            self._by_kernel.setdefault(id(target.kernel), []).append(target)

    def _weights(self, adapter: Adapter, plan: ChannelPlan) -> list[HangingWeight]:
        slots: dict[int, list[Slot]] = {}
        for slot in plan.channels.slots:
            if slot.weight.masked and (self.numbers[slot.ids] != NONE).any():
                slots.setdefault(id(slot.kernel), []).append(slot)
        weights = []
        for position, (first, *others) in enumerate(slots.values()):
            axes = tuple((slot.axis, self.numbers[slot.ids]) for slot in (first, *others))
            met = [self._group_of(n) for _, own in axes for n in np.unique(own[own != NONE])]
            shape = "x".join(map(str, first.kernel.shape))
            name = first.weight.name
            weight = HangingWeight(
                key=f"{position}/{type(first.layer).__name__}/{name}/{shape}",
                path=first.path,
                kernel_name=name,
                layer=first.layer,
                variable=first.variable,
                kernel=first.kernel,
                schedule=plan.schedules.get(first.path, met[0].schedule),
                mask=tf.Variable(
                    tf.ones(first.kernel.shape, tf.bool), trainable=False, name="mask"
                ),
                listed=name.endswith("kernel"),
                axes=axes,
            )
            for group in dict.fromkeys(met):
                group.weights.append(weight)
            weights.append(weight)
        return weights

    def _group_of(self, number: int) -> MaskedGroup:
        return self.groups[bisect.bisect(self.groups, number, key=lambda each: each.start) - 1]

    def _scores_of(self, slots: Sequence[Slot]) -> list[tuple[Slot, np.ndarray, np.ndarray]]:
        """(slot, places, numbers of the channels there) of all that has a part in a score."""
        scored = []
        for slot in slots:
            own = self.numbers[slot.ids]
            wanted = slot.weight.learned and self.spec.score in ("l2", "l1", slot.weight.name)
            if wanted and (own != NONE).any():
                scored.append((slot, np.flatnonzero(own != NONE), own[own != NONE]))
        return scored

    # --- what is kept

    def kept_ids(self) -> np.ndarray:
        """Bool for each id of the channel map: False where it is dropped."""
        kept: np.ndarray = np.append(self.kept().numpy(), True)[self.numbers]
        return kept

    def kept(self) -> tf.Tensor:
        """Bool for each channel under pruning, read off the masks of the weights."""
        found = [
            tf.gather(tf.reduce_any(_others_reduced(weight.mask, axis), 1), places)
            for weight, axis, places, _ in self._witnesses
        ]
        order = np.argsort(np.concatenate([numbers for *_, numbers in self._witnesses]))
        return tf.gather(tf.concat(found, 0), order)

    def scores(self) -> tf.Tensor:
        """Float32 for each channel under pruning: "l2", the root of the mean square of what hangs
        on it and is learned; "l1", the mean magnitude; "gamma", that of the batch norms' scales.
        """
        power = "l2" if self.spec.score == "l2" else "l1"
        sums, counts = [], np.zeros(self.count)
        for slot, places, numbers in self._scored:
            own = powers(tf.convert_to_tensor(slot.kernel), slot.axis, power)
            sums.append(tf.gather(own, places))
            each = int(np.prod(slot.kernel.shape)) // int(slot.kernel.shape[slot.axis])
            np.add.at(counts, numbers, each)
        numbers = np.concatenate([numbers for *_, numbers in self._scored])
        total = tf.math.unsorted_segment_sum(tf.concat(sums, 0), numbers, self.count)
        mean = total / tf.constant(counts, tf.float32)
        return tf.sqrt(mean) if power == "l2" else mean

    # --- when they change

    def resolve(self, schedules: dict[str, Any]) -> None:
        super().resolve(schedules)
        for group in self.groups:
            group.schedule = schedules[group.path]

    @property
    def paths(self) -> list[str]:
        return self.makers

    def start(self, step: int) -> None:
        late = [group for group in self.groups if is_late(group, step)]
        self._update(late, tf.constant(step, tf.int64))
        for group in self.groups:
            for weight in group.weights:
                weight.started = weight.trainable
        for single in self.remaining:
            if is_late(single, step):
                single.renew(tf.constant(step, tf.int64))
            single.started = single.trainable
        self.measure()

    def before_step(self, step: tf.Tensor) -> None:
        """Change the masks that are due, then apply all."""
        trainable = (each for each in self.groups if each.trainable)
        self.renew_when_due(trainable, step, self._renew)
        singles = (each for each in self.remaining if each.trainable)
        self.renew_when_due(singles, step, self._renew_singles)
        self.apply()

    def _renew(self, groups: list[MaskedGroup], step: tf.Tensor) -> None:
        self._update(groups, step)
        self.measure()

    def _renew_singles(self, singles: list[RemainingWeights], step: tf.Tensor) -> None:
        for single in singles:
            single.renew(step)

    def update(self, target: Target, step: tf.Tensor) -> None:
        """Make the masks of all groups anew that a weight hangs on, and those that share out the
        same channels.
        """
        if isinstance(target, RemainingWeights):
            target.renew(step)
            return
        groups = [group for group in self.groups if target in group.weights]
        if self.spec.allocation == "global":
            mine = [group.schedule for group in groups]
            groups = [group for group in self.groups if group.schedule in mine]
        self._update([group for group in groups if group.trainable], step)

    def update_all(self, when: Callable[[Schedule], int]) -> None:
        for own in by_schedule(each for each in self.groups if each.trainable or each.started):
            self._update(own, tf.constant(when(own[0].schedule), tf.int64))
        for single in self.remaining:
            if single.trainable or single.started:
                single.renew(tf.constant(when(single.schedule), tf.int64))

    def _update(self, groups: Sequence[MaskedGroup], step: tf.Tensor) -> None:
        if not groups:
            return
        scores, before = self.scores(), self.kept()
        found = {group.start: before[group.start :][: group.size] for group in self.groups}
        for own in by_schedule(groups):
            shares = [scores[group.start :][: group.size] for group in own]
            masks = self._masks(shares, sparsity_at(own[0].schedule, step))
            # Of NaN nobody can tell which are the smallest.
            finite = [tf.reduce_all(tf.math.is_finite(share)) for share in shares]
            if self.spec.allocation == "global":  # where each is compared with all others
                finite = [tf.reduce_all(finite)] * len(own)
            for group, mask, can_tell in zip(own, masks, finite, strict=True):
                found[group.start] = tf.where(can_tell, mask, found[group.start])
        kept = tf.concat([*found.values(), [True]], 0)  # the last one stands for NONE
        for weight in {id(w): w for group in groups for w in group.weights}.values():
            weight.mask.assign(_product(kept, weight))

    def _masks(self, scores: list[tf.Tensor], sparsity: tf.Tensor) -> list[tf.Tensor]:
        multiple_of = self.spec.multiple_of
        if self.spec.allocation == "global":
            return highest_of_all(scores, sparsity, multiple_of)
        return [
            highest(each, kept_count(int(each.shape[0]), sparsity, multiple_of)) for each in scores
        ]

    def measure(self, known: Mapping[int, tf.Tensor] | None = None) -> None:
        """Of channels the sparsity is the share that is dropped."""
        kept = tf.cast(tf.math.count_nonzero(self.kept()), tf.float32)
        self.sparsity.assign(1.0 - kept / self.count)

    def threshold(self, target: Target) -> float | None:
        return None

    def apply(self) -> None:
        for own in self._by_kernel.values():
            kernel = tf.convert_to_tensor(own[0].kernel)
            masks = [tf.convert_to_tensor(target.mask) for target in own]
            mask = functools.reduce(tf.logical_and, masks)
            own[0].kernel.assign(zero_where_dropped(kernel, mask))


def _witnesses(
    weights: Sequence[HangingWeight], count: int
) -> list[tuple[HangingWeight, int, np.ndarray, np.ndarray]]:
    """(weight, axis, places, numbers of the channels there), each channel once."""
    found, seen = [], np.zeros(count, bool)
    for weight in weights:
        for axis, numbers in weight.axes:
            own, places = np.unique(numbers, return_index=True)
            new = (own != NONE) & ~seen[own]
            if new.any():
                seen[own[new]] = True
                found.append((weight, axis, places[new], own[new]))
    return found


def _others_reduced(mask: tf.Variable, axis: int) -> tf.Tensor:
    """The mask as (places along `axis`, all others)."""
    rank = mask.shape.rank
    order = [axis, *(other for other in range(rank) if other != axis)]
    return tf.reshape(tf.transpose(tf.convert_to_tensor(mask), order), (mask.shape[axis], -1))


def _product(kept: tf.Tensor, weight: HangingWeight) -> tf.Tensor:
    """The mask of a weight, of what is kept along its axes."""
    shape = weight.kernel.shape
    mask = tf.ones(shape, tf.bool)
    for axis, numbers in weight.axes:
        along = tf.gather(kept, np.where(numbers == NONE, int(kept.shape[0]) - 1, numbers))
        sizes = [size if i == axis else 1 for i, size in enumerate(shape)]
        mask &= tf.reshape(along, sizes)
    return mask
