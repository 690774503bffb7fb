"""How well pasted products of held-out scenes find their items, compared with raw features."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int64

from product1m.capture.network import Embeddings, LoadedCapture
from product1m.capture.scene_views import SceneViews, rows_of_sources
from product1m.data.items import item_groups
from product1m.data.regions import FeatureSet, Regions
from product1m.data.vectors import normalize

MAX_INSTANCES = 1000
"""Maximum number of held-out products to measure, evenly spaced (ours)."""
MAX_OTHERS = 2000
"""Maximum number of items to search in addition to the sources, evenly spaced (ours)."""
DEPTHS = (1, 10)


def instance_recall(
    loaded: LoadedCapture, train: FeatureSet, scenes: FeatureSet
) -> dict[str, float]:
    """Share of held-out pasted products whose source is among the first 1 and 10 items.

    Names are `held_out/instance_recall@1` for the two streams, and the same with `/joint` for the
    product of joint tokens (paper) and `/raw` for the standardized region features. Empty if no
    scene is held out.
    """
    views = SceneViews(scenes, "held_out", rows_of_sources(scenes, train))
    if not len(views):
        return {}
    instances = _spaced(len(views), MAX_INSTANCES)
    sources = views.sources[instances]
    gallery = np.union1d(sources, _spaced(len(train), MAX_OTHERS))
    queries = [views.regions(int(i)) for i in instances]
    photos = [train.regions(int(row)) for row in gallery]
    captions = train.rows["caption"].iloc[gallery].tolist()
    spaces = _spaces(
        loaded,
        ([views.title(int(i)) for i in instances], queries),
        (captions, photos),
    )
    return {
        f"held_out/instance_recall@{depth}{name}": recall_at(
            depth,
            query_vectors,
            gallery_vectors,
            item_groups(train.rows, sources),
            item_groups(train.rows, gallery),
        )
        for name, (query_vectors, gallery_vectors) in spaces.items()
        for depth in DEPTHS
    }


def recall_at(
    depth: int,
    queries: Float[np.ndarray, "n E"],
    gallery: Float[np.ndarray, "m E"],
    query_groups: Int64[np.ndarray, " n"],
    gallery_groups: Int64[np.ndarray, " m"],
) -> float:
    """Share of queries with an item of their own group among the `depth` highest cosines."""
    similarities = normalize(queries) @ normalize(gallery).T
    best = np.argsort(-similarities, axis=1, kind="stable")[:, :depth]
    return float((gallery_groups[best] == query_groups[:, None]).any(1).mean())


def _spaces(
    loaded: LoadedCapture,
    queries: tuple[Sequence[str], Sequence[Regions]],
    gallery: tuple[Sequence[str], Sequence[Regions]],
) -> dict[str, tuple[Float32[np.ndarray, "n E"], Float32[np.ndarray, "m E"]]]:
    """The vectors of queries and gallery by name."""
    left, right = loaded.embed(*queries), loaded.embed(*gallery)
    moments = loaded.capture.standardization
    mean, deviation = moments.mean.cpu().numpy(), moments.deviation.cpu().numpy()

    def raw(photos: Sequence[Regions]) -> Float32[np.ndarray, "n F"]:
        stacked = np.stack([photo.features[0] for photo in photos]).astype(np.float32)
        return np.asarray((stacked - mean) / deviation)

    def streams(embedded: Embeddings) -> Float32[np.ndarray, "n E"]:
        return np.concatenate(
            [normalize(embedded.stream_text), normalize(embedded.stream_image)], axis=1
        )

    return {
        "": (streams(left), streams(right)),
        "/joint": (left.joint_text * left.joint_image, right.joint_text * right.joint_image),
        "/raw": (raw(queries[1]), raw(gallery[1])),
    }


def _spaced(count: int, maximum: int) -> Int64[np.ndarray, " n"]:
    return np.unique(np.linspace(0, count - 1, min(count, maximum)).astype(np.int64))
