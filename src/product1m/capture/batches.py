"""Training batches of CAPTURE: items, and pasted products with the items they came from.

A batch is a function of the seed and its number, so an interrupted training continues with the same
batches. Ranks divide a batch: together they hold the items and products that a single process would
have. Each rank draws its own proposals and masks.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32, Int64
from torch import Tensor

from product1m.capture.masking import Masking, mask_pairs
from product1m.capture.pairs import OnDevice, Pairs, collate
from product1m.capture.scene_views import KeptRegions, SceneViews, rows_of_sources
from product1m.capture.tokens import TitleTokenizer
from product1m.data.items import item_groups
from product1m.data.regions import FeatureSet, Regions
from product1m.errors import ArtifactError, TrainingError
from product1m.training import distributed


@dataclass(frozen=True)
class PretrainingBatch(OnDevice):
    """Items of the epoch, then other source items of views, then views of pasted products.

    The other items are only embedded as sources of views: they are not masked and take part in no
    other task.

    Each rank holds a part of a batch: some of the items, and the views that came from them.
    """

    pairs: Pairs
    masking: Masking
    """Masks of the epoch's items; other items and views are never masked."""
    groups: Int[Tensor, " I"]
    """The items' duplicate groups: equal if two items may show the same product."""
    sources: Int[Tensor, " S"]
    """The row of the item that each view came from."""
    num_items: int
    """Number of the epoch's items."""
    item_ids: list[str]


@dataclass(frozen=True)
class BatchSettings:
    """How batches are made; a field without a description equals the setting of the same name."""

    batch_size: int
    """Items of the epoch, over all ranks."""
    scene_batch_size: int
    """Pasted products, over all ranks; 0 for none."""
    max_tokens: int
    max_regions: int
    token_mask_probability: float
    region_mask_probability: float
    mask_overlap_iou: float
    scene_proposal_probability: float
    scene_proposal_iou: float
    seed: int


class EpochSampler:
    """Rows in an order that is shuffled again for every epoch; each row occurs once an epoch.

    The batches of an epoch differ in size by at most one row.
    """

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self.num_rows = num_rows
        self.seed = seed
        if not min(batch_size, num_rows):
            raise TrainingError(f"{num_rows} rows in batches of {batch_size}: nothing to train on")
        self.batches_per_epoch = -(-num_rows // batch_size)
        self._order = lru_cache(maxsize=2)(self._shuffled)

    @property
    def batch_size(self) -> int:
        """Rows of the smallest batch."""
        return self.num_rows // self.batches_per_epoch

    def rows(self, index: int) -> Int64[np.ndarray, " B"]:
        """The rows of batch number `index`, counted over all epochs, for all ranks together."""
        epoch, place = divmod(index, self.batches_per_epoch)
        start, end = (
            number * self.num_rows // self.batches_per_epoch for number in (place, place + 1)
        )
        return self._order(epoch)[start:end].astype(np.int64)

    def _shuffled(self, epoch: int) -> Int32[np.ndarray, " n"]:
        order = np.arange(self.num_rows, dtype=np.int32)
        np.random.default_rng([self.seed, epoch]).shuffle(order)
        return order


class PretrainingBatches:
    """Batch number i of a training, for `training.loop.train`."""

    def __init__(
        self,
        train: FeatureSet,
        scenes: FeatureSet,
        tokenizer: TitleTokenizer,
        settings: BatchSettings,
    ) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self._regions = KeptRegions(train)
        self._captions, self._ids = train.rows["caption"], train.rows["id"]
        self._train = train
        self._items = EpochSampler(len(train), settings.batch_size, settings.seed)
        if self._items.batch_size < distributed.world_size():
            raise TrainingError(
                f"batches of {self._items.batch_size} items leave none for some of "
                f"{distributed.world_size()} ranks; train with fewer ranks or a larger batch"
            )
        self._views: SceneViews | None = None
        if settings.scene_batch_size:
            self._views = SceneViews(scenes, "train", rows_of_sources(scenes, train))
            if not len(self._views):
                raise ArtifactError(
                    f"{scenes.artifact.folder}: no box of a product in a train scene; make more "
                    "scenes or set capture_pretraining.scene_contrast_weight=0"
                )
            self._instances = EpochSampler(
                len(self._views), settings.scene_batch_size, settings.seed + 1
            )

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every item is seen once."""
        return self._items.batches_per_epoch

    def __call__(self, index: int) -> PretrainingBatch:
        """This rank's part of batch `index`: items, masked, and views of products cut from them."""
        shared = np.random.default_rng([self._settings.seed, 2, index, 0])
        items, num_items, instances = self._rows(index, shared)
        rank = distributed.rank()
        own = np.random.default_rng([self._settings.seed, 2, index, rank]) if rank else shared
        photos = self._regions.many(items.tolist())
        titles = self._captions.iloc[items].tolist()
        sources = np.empty(0, np.int64)
        if self._views is not None:
            titles += [self._views.title(instance) for instance in instances.tolist()]
            photos += self._view_regions(self._views, instances, own)
            sources = _places(items, self._views.sources[instances])
        pairs = collate(
            self._tokenizer.encode(titles, self._settings.max_tokens),
            photos,
            self._settings.max_regions,
        )
        return PretrainingBatch(
            pairs,
            self._mask(pairs, num_items, own),
            torch.from_numpy(item_groups(self._train.rows, items)),
            torch.from_numpy(sources),
            num_items,
            self._ids.iloc[items].tolist(),
        )

    def _rows(
        self, index: int, shared: np.random.Generator
    ) -> tuple[Int64[np.ndarray, " I"], int, Int64[np.ndarray, " S"]]:
        """This rank's items, how many of them are the epoch's, and its instances.

        Every rank draws the whole batch and takes its part of it.
        """
        epoch_items = self._items.rows(index)
        own_items = epoch_items[distributed.share(len(epoch_items))]
        if self._views is None:
            return own_items, len(own_items), np.empty(0, np.int64)
        instances = self._choose_instances(self._views, index, epoch_items, shared)
        sources = self._views.sources[instances]
        others = np.setdiff1d(sources, epoch_items)
        items = np.concatenate([own_items, others[distributed.share(len(others))]])
        return items, len(own_items), instances[np.isin(sources, items)]

    def _choose_instances(
        self,
        views: SceneViews,
        index: int,
        items: Int64[np.ndarray, " B"],
        generator: np.random.Generator,
    ) -> Int64[np.ndarray, " S"]:
        """One instance of each of the batch's items that has any, then others up to the batch size.

        An instance whose source is already in the batch needs no further item.
        """
        drawn = self._instances.rows(index)
        known = [
            views.instances_by_item[row] for row in items.tolist() if row in views.instances_by_item
        ]
        own = np.array([generator.choice(instances) for instances in known], np.int64)
        others = drawn[~np.isin(views.sources[drawn], items)]
        return np.concatenate([own, others, drawn])[: len(drawn)]

    def _mask(self, pairs: Pairs, num_items: int, generator: np.random.Generator) -> Masking:
        return mask_pairs(
            pairs,
            num_items,
            self._tokenizer,
            generator,
            token_probability=self._settings.token_mask_probability,
            region_probability=self._settings.region_mask_probability,
            region_overlap=self._settings.mask_overlap_iou,
        )

    def _view_regions(
        self, views: SceneViews, instances: Int64[np.ndarray, " S"], generator: np.random.Generator
    ) -> list[Regions]:
        """The regions of every instance; for some, a proposal replaces the instance's own box."""
        proposals: list[int | None] = []
        for instance in instances.tolist():
            proposal = None
            if generator.random() < self._settings.scene_proposal_probability:
                proposal = views.draw_proposal(
                    instance, self._settings.scene_proposal_iou, generator
                )
            proposals.append(proposal)
        return [
            views.regions(instance, proposal)
            for instance, proposal in zip(instances.tolist(), proposals, strict=True)
        ]


def _places(
    items: Int64[np.ndarray, " I"], sources: Int64[np.ndarray, " S"]
) -> Int64[np.ndarray, " S"]:
    """Position of every source among `items`."""
    order = np.argsort(items)
    return np.asarray(order[np.searchsorted(items, sources, sorter=order)])


def shown(batch: PretrainingBatch) -> Pairs:
    """The batch's pairs as input of the model: masked tokens are replaced."""
    return replace(batch.pairs, tokens=batch.masking.tokens)


def feature_moments(
    train: FeatureSet, max_items: int = 10_000
) -> tuple[Float32[np.ndarray, " F"], Float32[np.ndarray, " F"]]:
    """Mean and standard deviation of region vectors of at most `max_items` evenly spaced items."""
    positions = np.unique(np.linspace(0, len(train) - 1, min(len(train), max_items)).astype(int))
    total, squares = np.zeros(train.feature_dim), np.zeros(train.feature_dim)
    count = 0
    for position in positions:
        features = train.regions(int(position)).features.astype(np.float64)
        total += features.sum(0)
        squares += (features**2).sum(0)
        count += len(features)
    mean = total / count
    variance = np.maximum(squares / count - mean**2, 0)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)
