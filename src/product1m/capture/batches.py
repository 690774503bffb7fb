"""What CAPTURE is trained on: items, and pasted instances with the items they came from.

A batch is a function of the seed and its number alone: an interrupted training goes on with the
very batches it would have had. Ranks share it: each draws what a single process would draw for all
of it, and reads and embeds its own part, so that together they see that very batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, Int, Int32, Int64
from torch import Tensor

from product1m.capture.masking import Draws, Masking, OnDevice, Pairs, collate, mask_pairs
from product1m.capture.tokens import TitleTokenizer
from product1m.config import CapturePretrainingConfig
from product1m.data.geometry import CORNERS, pairwise_iou
from product1m.data.regions import FeatureSet, Regions, regions_inside
from product1m.errors import ArtifactError, TrainingError
from product1m.training import distributed

CACHE_MIB = 1024
"""Region features of a set no larger are kept in memory once read (ours)."""


@dataclass(frozen=True)
class PretrainingBatch(OnDevice):
    """Items of the epoch, then more items that views need, then views of pasted instances.

    Of several ranks each holds a part: its items, and the views that came from them.
    """

    pairs: Pairs
    masking: Masking
    """Of the items; views are shown whole."""
    groups: Int[Tensor, " I"]
    """The items' duplicate groups: equal where two show one product for all we know."""
    sources: Int[Tensor, " S"]
    """The row of the item that each view came from."""
    num_items: int
    """Of the epoch."""
    item_ids: list[str]


class EpochSampler:
    """Rows in an order that is shuffled anew every epoch; a last partial batch is left out."""

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self.num_rows = num_rows
        self.batch_size = min(batch_size, num_rows)
        self.seed = seed
        if not self.batch_size:
            raise TrainingError(f"{num_rows} rows in batches of {batch_size}: nothing to train on")
        self.batches_per_epoch = num_rows // self.batch_size
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def rows(self, index: int) -> Int64[np.ndarray, " B"]:
        """The rows of batch number `index`, counted over all epochs; of all ranks."""
        epoch, place = divmod(index, self.batches_per_epoch)
        start = place * self.batch_size
        return self._order(epoch)[start : start + self.batch_size]

    def _shuffled(self, epoch: int) -> Int64[np.ndarray, " n"]:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_rows)


class KeptRegions:
    """A feature set's regions; a small set stays in memory once read."""

    def __init__(self, features: FeatureSet) -> None:
        self._features = features
        entries = features.artifact.manifest.files.items()
        num_bytes = sum(e.num_bytes for name, e in entries if name.startswith("regions-"))
        self._kept: dict[int, Regions] | None = {} if num_bytes <= CACHE_MIB << 20 else None

    def __getitem__(self, position: int) -> Regions:
        if self._kept is None:
            return self._features.regions(position)
        if position not in self._kept:
            self._kept[position] = self._features.regions(position)
        return self._kept[position]

    def many(self, positions: Sequence[int]) -> list[Regions]:
        """Several items' regions, at once where each is a request to storage."""
        if self._kept is None:
            return self._features.many(positions)
        return [self[position] for position in positions]

    def boxes_xyxy(self, position: int) -> Float32[np.ndarray, "R 4"]:
        """The regions' boxes alone, pixels."""
        if self._kept is None:
            return self._features.boxes_xyxy(position)
        return self[position].boxes_xyxy

    def count(self, position: int) -> int:
        """How many regions there are; reads none."""
        return self._features.num_regions(position)


class SceneViews:
    """Pasted instances of one split of the scenes, and the rows of the items they came from."""

    def __init__(self, scenes: FeatureSet, split: str, row_of_item: Mapping[str, int]) -> None:
        self._regions = KeptRegions(scenes)
        self._titles = scenes.rows["caption"].tolist()
        every, features = scenes.instances()
        in_split = (scenes.rows["split"].to_numpy() == split)[every["scene"].to_numpy()]
        frame = every[in_split]
        self._scenes = frame["scene"].to_numpy()
        self.boxes_xyxy = frame[list(CORNERS)].to_numpy(np.float32)
        """The visible box of each instance in its scene, pixels."""
        self.features = features[in_split]
        foreign = sorted(set(frame["source_id"]) - set(row_of_item))
        if foreign:
            raise ArtifactError(
                f"{scenes.artifact.folder}: {len(foreign)} sources of its instances, {foreign[0]} "
                "first, are no train items; make both feature sets from one ingestion"
            )
        self.sources = np.array([row_of_item[source] for source in frame["source_id"]], np.int64)
        """The row of the item each instance came from."""
        self.of_item: dict[int, list[int]] = {}
        """Row of an item to its instances."""
        for instance, row in enumerate(self.sources.tolist()):
            self.of_item.setdefault(row, []).append(instance)

    def __len__(self) -> int:
        return len(self.sources)

    def title(self, instance: int) -> str:
        """The title of the instance's whole scene."""
        return str(self._titles[self._scenes[instance]])

    def draw(self, instance: int, min_iou: float, generator: np.random.Generator) -> int | None:
        """One of the scene's proposals that overlaps the instance enough; None if none does."""
        boxes = self._regions.boxes_xyxy(int(self._scenes[instance]))
        overlaps = pairwise_iou(boxes, self.boxes_xyxy[[instance]])[:, 0]
        candidates = np.flatnonzero(overlaps >= min_iou)
        candidates = candidates[candidates > 0]
        return int(generator.choice(candidates)) if len(candidates) else None

    def seen(self, instance: int, proposal: int | None = None) -> Regions:
        """The instance's own box and vector, or a proposal's; then the scene's regions inside."""
        regions = self._regions[int(self._scenes[instance])]
        if proposal is None:
            return regions.instance(self.boxes_xyxy[instance], self.features[instance])
        return regions.instance(regions.boxes_xyxy[proposal], regions.features[proposal])

    def num_regions(self, instance: int, proposal: int | None = None) -> int:
        """How many regions `seen` would have; reads no vectors."""
        boxes = self._regions.boxes_xyxy(int(self._scenes[instance]))
        frame = self.boxes_xyxy[instance] if proposal is None else boxes[proposal]
        return len(regions_inside(boxes, frame)) + 1


@dataclass(frozen=True)
class _Whole:
    """A batch as drawn, of all ranks: row numbers and tokens, no photos."""

    items: Int64[np.ndarray, " I"]
    num_items: int
    """Of the epoch; the others are there because a view needs its source."""
    views: list[tuple[int, int | None]]
    """An instance, and the proposal it is seen through."""
    sources: Int64[np.ndarray, " S"]
    """Where among `items` the source of every view is."""
    tokens: list[Int32[np.ndarray, " T"]]
    """Of the items, then of the views."""
    generator: np.random.Generator
    """Ready to draw the masks."""

    def shared(self) -> tuple[Int64[np.ndarray, " i"], Int64[np.ndarray, " s"]]:
        """This rank's places among the items and among the views: a view is where its source is."""
        places = np.arange(len(self.items))
        epoch, more = places[: self.num_items], places[self.num_items :]
        mine = np.concatenate(
            [epoch[distributed.share(len(epoch))], more[distributed.share(len(more))]]
        )
        return mine, np.flatnonzero(np.isin(self.sources, mine))


class PretrainingBatches:
    """Batch number i of a training, for `training.loop.train`."""

    def __init__(
        self,
        train: FeatureSet,
        scenes: FeatureSet,
        tokenizer: TitleTokenizer,
        config: CapturePretrainingConfig,
    ) -> None:
        self.train, self.tokenizer, self.config = train, tokenizer, config
        self._regions = KeptRegions(train)
        self._captions = train.rows["caption"].tolist()
        self._ids = train.rows["id"].tolist()
        self._groups = item_groups(train)
        self._items = EpochSampler(len(train), config.batch_size, config.seed)
        if self._items.batch_size < distributed.world_size():
            raise TrainingError(
                f"batches of {self._items.batch_size} items leave none for some of "
                f"{distributed.world_size()} ranks; train with fewer ranks or a larger batch"
            )
        self.views: SceneViews | None = None
        if config.scene_contrast_weight:
            rows = {item: row for row, item in enumerate(self._ids)}
            self.views = SceneViews(scenes, "train", rows)
            if not len(self.views):
                raise ArtifactError(
                    f"{scenes.artifact.folder}: no instance in a train scene; make more scenes or "
                    "set capture_pretraining.scene_contrast_weight=0"
                )
            self._instances = EpochSampler(
                len(self.views), config.scene_batch_size, config.seed + 1
            )

    @property
    def batches_per_epoch(self) -> int:
        """Batches in which every item is seen about once."""
        return self._items.batches_per_epoch

    def __call__(self, index: int) -> PretrainingBatch:
        """This rank's part of batch `index`: items, masked, and views of instances of them."""
        whole = self._draw(index)
        mine, views = whole.shared()
        items = whole.items[mine]
        photos = self._regions.many(items.tolist())
        if self.views is not None:
            photos += [self.views.seen(*whole.views[view]) for view in views]
        rows = np.concatenate([mine, len(whole.items) + views])
        pairs = collate([whole.tokens[row] for row in rows], photos, self.config.max_regions)
        draws = Draws.of(
            len(whole.tokens),
            max(len(title) for title in whole.tokens),
            self._longest(whole, dict(zip(rows.tolist(), photos, strict=True))),
            self.tokenizer,
            whole.generator,
        )
        return PretrainingBatch(
            pairs,
            self._mask(pairs, len(items), draws.of_pairs(rows, pairs)),
            torch.from_numpy(self._groups[items]),
            torch.from_numpy(np.searchsorted(mine, whole.sources[views])),
            int((mine < whole.num_items).sum()),
            [self._ids[row] for row in items],
        )

    def _draw(self, index: int) -> "_Whole":
        """What all ranks see together, before any of it is read."""
        generator = np.random.default_rng([self.config.seed, 2, index, 0])
        epoch_items = self._items.rows(index)
        items, instances = epoch_items, np.empty(0, np.int64)
        titles, views = [], []
        if self.views is not None:
            instances = self._choose_instances(self.views, index, epoch_items, generator)
            more = np.setdiff1d(self.views.sources[instances], epoch_items)
            items = np.concatenate([epoch_items, more])
            titles = [self.views.title(i) for i in instances.tolist()]
            views = [(i, self._proposal(self.views, i, generator)) for i in instances.tolist()]
        tokens = self.tokenizer.encode(
            [self._captions[row] for row in items] + titles, self.config.max_tokens
        )
        sources = self._places(items, instances)
        return _Whole(items, len(epoch_items), views, sources, tokens, generator)

    def _longest(self, whole: "_Whole", read: Mapping[int, Regions]) -> int:
        """The regions that the longest row of the whole batch has, not all of which are read."""
        counts = [self._regions.count(row) for row in whole.items.tolist()]
        if self.views is not None:
            first = len(counts)
            counts += [
                len(read[row]) if row in read else self.views.num_regions(*view)
                for row, view in enumerate(whole.views, start=first)
            ]
        return min(max(counts), self.config.max_regions + 1)

    def _choose_instances(
        self,
        views: SceneViews,
        index: int,
        items: Int64[np.ndarray, " B"],
        generator: np.random.Generator,
    ) -> Int64[np.ndarray, " S"]:
        """One instance of each of the batch's items that has any, topped up with others.

        A source that is in the batch anyway costs nothing more.
        """
        drawn = self._instances.rows(index)
        known = [views.of_item[row] for row in items.tolist() if row in views.of_item]
        own = np.array([generator.choice(instances) for instances in known], np.int64)
        others = drawn[~np.isin(views.sources[drawn], items)]
        return np.concatenate([own, others, drawn])[: len(drawn)]

    def _places(
        self, items: Int64[np.ndarray, " I"], instances: Int64[np.ndarray, " S"]
    ) -> Int64[np.ndarray, " S"]:
        """Where in the batch the source of every instance is."""
        if self.views is None:
            return np.empty(0, np.int64)
        order = np.argsort(items)
        sources = self.views.sources[instances]
        return np.asarray(order[np.searchsorted(items, sources, sorter=order)])

    def _proposal(
        self, views: SceneViews, instance: int, generator: np.random.Generator
    ) -> int | None:
        if generator.random() < self.config.scene_proposal_probability:
            return views.draw(instance, self.config.scene_proposal_iou, generator)
        return None

    def _mask(self, pairs: Pairs, num_items: int, draws: Draws) -> Masking:
        config = self.config
        return mask_pairs(
            pairs,
            num_items,
            self.tokenizer,
            draws,
            token_probability=config.mask_probability if config.masked_language_weight else 0.0,
            region_probability=config.mask_probability if config.masked_region_weight else 0.0,
            region_overlap=config.mask_overlap_iou,
        )


def shown(batch: PretrainingBatch) -> Pairs:
    """The batch's pairs as the model sees them: masked tokens in place."""
    return replace(batch.pairs, tokens=batch.masking.tokens)


def item_groups(train: FeatureSet) -> Int64[np.ndarray, " n"]:
    """Every item's duplicate group; an item without one is a group of its own."""
    groups = train.rows["group"].to_numpy(np.int64)
    return np.where(groups >= 0, groups, -1 - np.arange(len(groups), dtype=np.int64))


def feature_moments(
    train: FeatureSet, max_items: int = 10_000
) -> tuple[Float32[np.ndarray, " F"], Float32[np.ndarray, " F"]]:
    """Mean and standard deviation of the region vectors, over evenly spaced items at most."""
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
