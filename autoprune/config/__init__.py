"""What a user may write: options, experiments and search spaces, checked before anything heavy is imported."""

from autoprune.config.experiment import load_experiment
from autoprune.config.options import check_options, default_run_folder, parse_duration
from autoprune.config.resources import resource_names, resource_path
from autoprune.config.spaces import GroupRule, SearchSpaceRules, apply_rules, load_search_space

__all__ = [
    "GroupRule",
    "SearchSpaceRules",
    "apply_rules",
    "check_options",
    "default_run_folder",
    "load_experiment",
    "load_search_space",
    "parse_duration",
    "resource_names",
    "resource_path",
]
