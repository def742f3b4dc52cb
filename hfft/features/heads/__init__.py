"""Linear heads solved on fixed features, and their place in a model's own classifier."""

from hfft.features.heads.classifier import ACTIVATIONS, Classifier, HiddenLayer, find_classifier
from hfft.features.heads.folding import can_fold, can_pass_on, fold_head, install_head, near_identity
from hfft.features.heads.linear import LinearHead
from hfft.features.heads.solvers import list_solvers, load_solver, solve_head

__all__ = [
    "ACTIVATIONS",
    "Classifier",
    "HiddenLayer",
    "LinearHead",
    "can_fold",
    "can_pass_on",
    "find_classifier",
    "fold_head",
    "install_head",
    "list_solvers",
    "load_solver",
    "near_identity",
    "solve_head",
]
