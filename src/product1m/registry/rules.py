"""The reviewer's rules: the gate decides by them, not by what a candidate brings along."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import yaml

from product1m.config import EvaluationConfig, RegistrationConfig
from product1m.config.loading import Preset, parse_config, preset_values
from product1m.errors import ConfigError
from product1m.evaluation.statistics import BootstrapPlan
from product1m.registry.evidence import Evidence, Rules
from product1m.storage.disk import reason_of


@dataclass(frozen=True)
class ReviewRules:
    """Limits of the gate, and how its intervals are computed."""

    rules: Rules
    bootstrap: BootstrapPlan

    def apply(self, evidence: Evidence) -> Evidence:
        """Evidence under these rules."""
        plan = replace(self.bootstrap, groups=evidence.bootstrap.groups)
        return evidence.model_copy(update={"rules": self.rules, "bootstrap": plan})


def installed_rules() -> ReviewRules:
    """The defaults of this installation."""
    return _rules(RegistrationConfig(), EvaluationConfig())


def read_rules(source: str) -> ReviewRules:
    """Rules of a preset, or of a YAML file with the sections `registration` and `evaluation`.

    Missing keys have their defaults. Raises ConfigError for an unknown key or a value out of range.
    """
    if not source:
        return installed_rules()
    if source in get_args(Preset):
        values = preset_values(source)  # type: ignore[arg-type]  # it was just checked
    else:
        try:
            values = yaml.safe_load(Path(source).read_text("utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{source}: expected a preset ({', '.join(get_args(Preset))}) or a YAML file with "
                f"a section registration ({reason_of(error)})"
            ) from error
    config = parse_config(values)
    return _rules(config.registration, config.evaluation)


def _rules(registration: RegistrationConfig, evaluation: EvaluationConfig) -> ReviewRules:
    return ReviewRules(
        Rules.model_validate(registration.model_dump()), BootstrapPlan.from_config(evaluation)
    )
