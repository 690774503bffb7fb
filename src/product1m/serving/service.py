"""Answer a photo and its title: from ingestion to ranking in one process.

The registered model is this, over its own folder (see `model_folder`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from product1m.artifacts.folder import Artifact
from product1m.artifacts.model_parts import CAPTURE, INDEX, RPN
from product1m.data.geometry import BoxSelection
from product1m.data.intake import StoredPhoto, normalize_photo
from product1m.data.limits import PhotoLimits, title_fault
from product1m.data.lists import clean_caption
from product1m.data.photos import Photo, decode_photo
from product1m.data.regions import Regions
from product1m.detection.crop_cache import Cropper, CropSelection
from product1m.detection.crop_encoder import stored_encoder
from product1m.detection.extraction import RegionSettings, extract_regions
from product1m.detection.ocr import OcrSettings, PackReader
from product1m.detection.points import PointFinder
from product1m.detection.proposals import ProposalNetwork, load_rpn
from product1m.detection.untrained_boxes import grabcut_of_scenes
from product1m.errors import PhotoError, QueryError, RetrievalError
from product1m.retrieval.crop_block import CROP
from product1m.retrieval.embedding import OCR
from product1m.retrieval.index import GalleryIndex
from product1m.retrieval.search import Searcher, SearchResult, SearchSettings
from product1m.retrieval.shared_points import POINTS_WEIGHT, SharedPoints
from product1m.serving.model_folder import ServingConfig, open_part


@dataclass(frozen=True)
class PhotoAnswers:
    """The boxes of one photo and their rankings."""

    boxes_xyxy: Float32[np.ndarray, "I 4"]
    """Pixels of the given photo, turned upright by its EXIF orientation."""
    result: SearchResult
    size_px: tuple[int, int]
    """Width and height of that photo."""
    shared: list[list[SharedPoints]] | None = None
    """For each answer of each box, the points that they share, in pixels of that photo; None for a
    model without points."""


class SearchService:
    """RPN, CAPTURE and index, ready to answer."""

    def __init__(
        self,
        rpn: ProposalNetwork,
        region_settings: RegionSettings,
        searcher: Searcher,
        config: ServingConfig,
        cropper: Cropper | None = None,
    ) -> None:
        """`cropper` encodes boxes that are cut out; None if that has no weight."""
        self.rpn = rpn
        self.region_settings = region_settings
        self.searcher = searcher
        self.config = config
        self.reader = _reader_of(config, searcher.settings.boxes)
        self.finder = _finder_of(config)
        self.cropper = cropper
        gallery = searcher.gallery
        self.labels = dict(zip(gallery.ids, gallery.first_labels(), strict=True))
        """First label of every gallery item."""

    @classmethod
    def load(cls, folder: Path) -> "SearchService":
        """Open a model folder; ArtifactError names a file that is damaged or missing."""
        config = ServingConfig.read(folder)
        rpn = open_part(folder, RPN)
        regions = RegionSettings.from_config(config.feature_extraction, grabcut_of_scenes(rpn))
        index, capture = open_part(folder, INDEX), open_part(folder, CAPTURE)
        settings = SearchSettings.from_config(config.evaluation, rpn)
        searcher = Searcher.load(index, capture, settings)
        network = load_rpn(rpn)
        cropper = None
        if config.weights.get(CROP):
            encoder = stored_encoder(index, config.feature_extraction, rpn, network)
            cropper = Cropper(encoder, CropSelection("several", settings.boxes))
        return cls(network, regions, searcher, config, cropper)

    def with_catalogue(self, catalogue: Artifact) -> "SearchService":
        """The same model, answering from a catalogue that `open_catalogue` let pass."""
        own = self.searcher
        gallery = GalleryIndex.load(catalogue)
        searcher = Searcher(own.encoder, gallery, own.layout, own.settings)
        return SearchService(self.rpn, self.region_settings, searcher, self.config, self.cropper)

    def answer(
        self,
        photos: Sequence[bytes],
        titles: Sequence[str],
        top_k: int,
        needs_title: bool = True,
    ) -> list[PhotoAnswers]:
        """The `top_k` best gallery items for every product in every photo, and merged.

        Fewer where the gallery is smaller. An empty title is refused unless `needs_title` is False;
        its text block is zero.

        Raises QueryError for a photo or title that cannot be searched.
        """
        if top_k < 1:
            raise RetrievalError(f"top_k: expected 1 or more, got {top_k}")
        limits = PhotoLimits.from_config(self.config.ingestion)
        stored, captions = [], []
        for position, (photo, title) in enumerate(zip(photos, titles, strict=True)):
            if fault := title_fault(title, self.config.ingestion.max_title_bytes):
                raise QueryError("title", position, fault)
            try:
                stored.append(normalize_photo(photo, limits))
            except PhotoError as error:
                raise QueryError("photo", position, error) from error
            captions.append(clean_caption(title))
            if needs_title and not captions[-1]:
                raise QueryError("title", position, "empty; expected the photo's title")
        pixels = [decode_photo(kept.encoded, f"photo {i}") for i, kept in enumerate(stored)]
        # Searched as deep as evaluated: an approximate index finds other items at another depth.
        depth = max(top_k, self.config.evaluation.depth)
        answers = []
        for kept, caption, regions in zip(stored, captions, self._regions(pixels), strict=True):
            result = self.searcher.search(
                caption, regions, self.config.weights, depth, self.config.match_score
            )
            cut = _cut(result, top_k)
            shared = self.searcher.explain(cut) if self.finder else None
            answers.append(_in_given_pixels(cut, shared, kept))
        return answers

    def _regions(self, photos: Sequence[Photo]) -> Iterator[Regions]:
        """The regions of each photo, with its printed lines, points and crops if these count."""
        extracted = extract_regions(self.rpn, photos, self.region_settings)
        for photo, (regions, _) in zip(photos, extracted, strict=True):
            known = self.reader.with_lines(photo, regions) if self.reader else regions
            known = self.finder.with_points(photo, known) if self.finder else known
            yield self.cropper.with_crops(photo, known) if self.cropper else known

    def row(self, answer: PhotoAnswers) -> dict[str, Any]:
        """Answers as plain values: `ids` and `labels` merged, and `instances`, one a box.

        Without any product in the photo there are no `instances`; `ids` answer the whole photo.
        """
        merged = answer.result.merged
        shown = range(answer.result.boxes.num_shown)
        instances = [self._instance(answer, place) for place in shown]
        labels = [self.labels[item] for item in merged]
        return {"ids": merged, "labels": labels, "instances": instances}

    def _instance(self, answer: PhotoAnswers, place: int) -> dict[str, Any]:
        result = answer.result
        ids = [item for item, _ in result.rankings[place]]
        scores = result.match_scores[place] if result.match_scores is not None else None
        shared = answer.shared[place] if answer.shared is not None else None
        return {
            "box_xyxy": [float(edge) for edge in answer.boxes_xyxy[place]],
            "score": float(result.boxes.scores[place]),
            "ids": ids,
            "labels": [self.labels[item] for item in ids],
            "match_scores": scores,
            "shared_points": [len(own) for own in shared] if shared is not None else None,
            "shared_points_xy": [own.as_rows() for own in shared] if shared is not None else None,
            "in_catalogue": result.in_catalogue[place] if result.in_catalogue else None,
        }


def _reader_of(config: ServingConfig, boxes: BoxSelection) -> PackReader | None:
    """The reader of packs; None if the shipped ranking gives what they say no weight."""
    section = config.feature_extraction
    if section.ocr == "off" or not config.weights.get(OCR):
        return None
    settings = OcrSettings.from_config(section).on_this_machine()
    return PackReader(replace(settings, boxes=boxes))


def _finder_of(config: ServingConfig) -> PointFinder | None:
    """What finds points; None if shared points have no weight in the shipped ranking."""
    if not config.weights.get(POINTS_WEIGHT):
        return None
    return PointFinder.from_config(config.feature_extraction)


def _in_given_pixels(
    result: SearchResult, shared: list[list[SharedPoints]] | None, stored: StoredPhoto
) -> PhotoAnswers:
    """Answers in the pixels of a photo as it was given, before it was reduced to be stored."""
    factor = np.float32(stored.downscaled)
    size_px = round(stored.width / stored.downscaled), round(stored.height / stored.downscaled)
    if shared is not None:
        shared = [[replace(own, box_xy=own.box_xy / factor) for own in row] for row in shared]
    return PhotoAnswers(result.boxes.boxes_xyxy / factor, result, size_px, shared)


def _cut(result: SearchResult, top_k: int) -> SearchResult:
    rankings = [ranking[:top_k] for ranking in result.rankings]
    scores = result.match_scores
    scores = [own[:top_k] for own in scores] if scores is not None else None
    return replace(result, rankings=rankings, merged=result.merged[:top_k], match_scores=scores)
