"""Which pretrained weights a model was made with, from what its steps recorded."""

from product1m.artifacts.manifest import Summary
from product1m.artifacts.pretrained import PretrainedWeights, pretrained_in, recorded_weights
from product1m.data.crop_vectors import DETAILS
from product1m.detection.encoder_recipe import BACKBONE

LITE0 = {"name": "backbone", "source": "package:efficientnet-lite0", "license": "Apache-2.0"}
READER = {"source": "rapidocr 3.4", "license": "Apache-2.0", "key": "k"}


def features(part: str, **details: object) -> Summary:
    return Summary(step="feature_extraction", part=part, details=dict(details))


def test_every_weight_is_named_once_whatever_it_computed() -> None:
    crop = {"encoder": "hub:vit", "license": "MIT"}
    lineage = {
        "rpn_training": Summary(step="rpn_training", details={"pretrained": [LITE0]}),
        "feature_extraction/gallery": features("gallery", ocr=READER, crop=crop),
        "feature_extraction/queries": features("queries", ocr=READER, crop=crop),
        "capture_pretraining": Summary(step="capture_pretraining", details={"pretrained": []}),
    }
    assert [str(weights) for weights in pretrained_in(lineage)] == [
        "backbone package:efficientnet-lite0: Apache-2.0",
        "OCR reader rapidocr 3.4: Apache-2.0",
        "crop encoder hub:vit: MIT",
    ]
    nameless = {DETAILS: {"encoder": "/models/vit", "license": ""}}
    (unknown,) = recorded_weights(features("gallery", **nameless))
    assert str(unknown) == "crop encoder /models/vit: unknown"
    own = {DETAILS: {"encoder": BACKBONE, "license": ""}}
    assert recorded_weights(features("gallery", **own)) == []


def test_artifacts_without_a_record_have_unknown_licenses_unless_they_started_at_random() -> None:
    def trained(**config: str) -> list[PretrainedWeights]:
        return recorded_weights(Summary(step="capture_pretraining", config=dict(config)))

    assert trained(text_model="scratch") == []
    (text_model,) = trained(text_model="/models/bert")
    assert str(text_model) == "text model /models/bert: unknown"
    (earlier,) = trained(text_model="scratch", warm_start="models:/product1m/3")
    assert str(earlier) == "text model models:/product1m/3: unknown"
