"""Pasted products of scenes, each a view of the item that it was cut from."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from product1m.data.geometry import CORNERS, pairwise_iou
from product1m.data.regions import FeatureSet, Regions
from product1m.errors import ArtifactError

CACHE_MIB = 1024
"""The regions of a feature set of at most this size stay in memory after reading (ours)."""


class KeptRegions:
    """A feature set's regions; those of a small set stay in memory after reading."""

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
        """Several items' regions; read in parallel if each is a request to storage."""
        if self._kept is None:
            return self._features.many(positions)
        return [self[position] for position in positions]

    def boxes_xyxy(self, position: int) -> Float32[np.ndarray, "R 4"]:
        """Only the regions' boxes, in pixels."""
        if self._kept is None:
            return self._features.boxes_xyxy(position)
        return self[position].boxes_xyxy


def rows_of_sources(scenes: FeatureSet, items: FeatureSet) -> dict[str, int]:
    """The row of every item that a product was cut from; of those the items lack, none."""
    instances, _ = scenes.instances()
    ids = items.rows["id"]
    rows = np.flatnonzero(ids.isin(instances["source_id"]).to_numpy(bool))
    return dict(zip(ids.iloc[rows].tolist(), rows.tolist(), strict=True))


class SceneViews:
    """Pasted products of one split of the scenes, and the rows of the items they came from."""

    def __init__(self, scenes: FeatureSet, split: str, row_of_item: Mapping[str, int]) -> None:
        self._regions = KeptRegions(scenes)
        self._titles = scenes.rows["caption"].tolist()
        instances, features = scenes.instances()
        in_split = (scenes.rows["split"].to_numpy() == split)[instances["scene"].to_numpy()]
        frame = instances[in_split]
        self.scenes = frame["scene"].to_numpy()
        """The row of the scene of each instance."""
        self.boxes_xyxy = frame[list(CORNERS)].to_numpy(np.float32)
        """The box around the visible part of each instance, in pixels of its scene."""
        self.features = features[in_split]
        foreign = sorted(set(frame["source_id"]) - set(row_of_item))
        if foreign:
            raise ArtifactError(
                f"{scenes.artifact.folder}: {len(foreign)} pasted products, {foreign[0]} for "
                "example, come from no train item; make both feature sets from one ingestion"
            )
        self.sources = np.array([row_of_item[source] for source in frame["source_id"]], np.int64)
        """The row of the item each instance came from."""
        self.instances_by_item: dict[int, list[int]] = {}
        """The instances of each item, by its row."""
        for instance, row in enumerate(self.sources.tolist()):
            self.instances_by_item.setdefault(row, []).append(instance)

    def __len__(self) -> int:
        return len(self.sources)

    def title(self, instance: int) -> str:
        """The title of the instance's whole scene."""
        return str(self._titles[self.scenes[instance]])

    def draw_proposal(
        self, instance: int, min_iou: float, generator: np.random.Generator
    ) -> int | None:
        """One of the scene's proposals that overlaps the instance enough; None if none does."""
        boxes = self._regions.boxes_xyxy(int(self.scenes[instance]))
        overlaps = pairwise_iou(boxes, self.boxes_xyxy[[instance]])[:, 0]
        candidates = np.flatnonzero(overlaps >= min_iou)
        candidates = candidates[candidates > 0]
        return int(generator.choice(candidates)) if len(candidates) else None

    def regions(self, instance: int, proposal: int | None = None) -> Regions:
        """First the box and vector of the instance or proposal, then the scene's regions in it."""
        regions = self._regions[int(self.scenes[instance])]
        if proposal is None:
            return regions.instance(self.boxes_xyxy[instance], self.features[instance])
        return regions.instance(regions.boxes_xyxy[proposal], regions.features[proposal])
