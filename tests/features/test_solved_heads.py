"""Solved heads against scikit-learn, and what they do with data that is hard to solve."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import NearestCentroid

from hfft.data.folds import ALWAYS_TRAINED, draw_folds
from hfft.errors import UserError
from hfft.features.heads import list_solvers, solve_head
from hfft.features.heads.problem import STRENGTHS


def blobs(rows=90, dims=12, classes=3, spread=2.0, seed=0):
    generator = np.random.default_rng(seed)
    targets = np.arange(rows) % classes
    centres = generator.normal(size=(classes, dims))
    features = centres[targets] + spread * generator.normal(size=(rows, dims)) + 5
    return features.astype(np.float32), targets


def scale_of(features):
    return float(np.sqrt(((features - features.mean(axis=0)) ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize("shape", [(90, 12), (30, 50)], ids=["more examples than dims", "fewer"])
def test_logistic_equals_scikit_learn(shape):
    features, targets = blobs(*shape)
    head = solve_head(features, targets, strength=0.3)
    penalty = 0.3 * scale_of(features) ** 2
    reference = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10000).fit(features.astype(np.float64), targets)
    torch.testing.assert_close(head.weight.double(), torch.tensor(reference.coef_), rtol=0, atol=2e-4)
    expected = torch.tensor(reference.predict_proba(features))
    torch.testing.assert_close(head(torch.tensor(features)).double().softmax(1), expected, rtol=0, atol=2e-4)


def test_arrays_that_may_not_be_written_to_are_read_without_a_warning(recwarn):
    features, targets = blobs()
    expected = solve_head(features, targets, strength=0.3).weight
    for values in (features, targets):
        values.flags.writeable = False
    assert torch.equal(solve_head(features, targets, strength=0.3).weight, expected)
    assert not [str(warning.message) for warning in recwarn if "writ" in str(warning.message)]


def test_logistic_of_several_labels_is_one_regression_per_class():
    features, targets = blobs()
    columns = np.stack([targets == 0, targets != 2, np.arange(90) % 5 == 0], axis=1).astype(np.int64)
    head = solve_head(features, columns, strength=0.3)
    for column, outputs in zip(columns.T, head(torch.tensor(features)).T, strict=True):
        penalty = 0.3 * scale_of(features) ** 2
        reference = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10000).fit(features.astype(float), column)
        np.testing.assert_allclose(outputs, reference.decision_function(features), atol=1e-3)


def test_the_minimum_of_the_squared_hinge_has_no_gradient():
    features, targets = blobs()
    head = solve_head(features, targets, solver="svm", strength=0.3)
    weight, bias = head.weight.double().requires_grad_(), head.bias.double().requires_grad_()
    outputs = torch.nn.functional.linear(torch.tensor(features).double(), weight, bias)
    signs = 2 * torch.nn.functional.one_hot(torch.tensor(targets)) - 1
    loss = (1 - signs * outputs).clamp(min=0).square().sum() + 0.15 * scale_of(features) ** 2 * weight.square().sum()
    loss.backward()
    assert bias.grad.abs().max() < 1e-2
    assert weight.grad.abs().max() < 1e-1  # the features have a mean of 5, the scale is 7


def test_ridge_equals_scikit_learn_and_leaves_one_out():
    features, _ = blobs()
    targets = (features[:, 0] - features[:, 3] + np.random.default_rng(1).normal(size=90)).astype(np.float32)
    head = solve_head(features, targets, solver="ridge")
    # the scale is that of the whole set
    reference = Ridge(alpha=head.strength * scale_of(features) ** 2)
    left_out = cross_val_predict(reference, features.astype(np.float64), targets, cv=LeaveOneOut())
    np.testing.assert_allclose(head.out_of_fold[:, 0], left_out, atol=1e-3)
    fitted = reference.fit(features.astype(np.float64), targets).predict(features)
    np.testing.assert_allclose(head(torch.tensor(features))[:, 0], fitted, atol=1e-3)
    assert len(head.path) == 11


def test_ridge_takes_classes_for_minus_one_and_one():
    features, targets = blobs()
    head = solve_head(features, targets, solver="ridge", strength=0.3)
    reference = RidgeClassifier(alpha=0.3 * scale_of(features) ** 2).fit(features.astype(np.float64), targets)
    np.testing.assert_allclose(head(torch.tensor(features)), reference.decision_function(features), atol=1e-4)


def test_ridge_leaves_whole_groups_out():
    features, _ = blobs()
    groups = np.arange(90) // 6
    targets = features[:, 0] + groups.astype(np.float32)
    head = solve_head(features, targets, solver="ridge", groups=groups)
    kept = groups != 4
    reference = Ridge(alpha=head.strength * scale_of(features) ** 2).fit(features[kept].astype(float), targets[kept])
    np.testing.assert_allclose(head.out_of_fold[~kept, 0], reference.predict(features[~kept]), atol=1e-3)


def test_prototypes_choose_the_nearest_mean():
    features, targets = blobs()
    head = solve_head(features, targets, solver="prototypes")
    nearest = NearestCentroid().fit(features, targets).predict(features)
    assert (head(torch.tensor(features)).argmax(1).numpy() == nearest).all()


@pytest.mark.parametrize("solver", ["logistic", "svm"])
def test_the_path_changes_nothing_but_the_time(solver):
    features, targets = blobs()
    warm = solve_head(features, targets, solver=solver)
    cold = solve_head(features, targets, solver=solver, strength=warm.strength)
    assert len(warm.path) > 2
    torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-4)


def test_held_out_outputs_come_from_heads_that_did_not_see_the_example():
    generator = np.random.default_rng(0)
    features, targets = generator.normal(size=(60, 40)).astype(np.float32), np.arange(60) % 2
    head = solve_head(features, targets)
    seen = (solve_head(features, targets, strength=0.001)(torch.tensor(features)).argmax(1).numpy() == targets).mean()
    unseen = (head.out_of_fold.argmax(1).numpy() == targets).mean()
    assert seen == 1
    assert unseen < 0.75  # there is nothing to learn
    assert head.strength == max(point.strength for point in head.path)


def test_neither_weights_nor_strength_of_held_out_outputs_come_from_the_example():
    features, targets = blobs(rows=400, spread=4.0)
    head = solve_head(features, targets, seed=3)
    fold_of = draw_folds(targets, 5, seed=3)[0]
    for fold in range(5):
        held_out = fold_of == fold
        losses = {
            point.strength: held_out_losses(features, targets, fold_of, point.strength)[~held_out]
            for point in head.path
        }
        least = min(losses.values(), key=np.mean)
        bound = least.mean() + least.std() / len(least) ** 0.5
        chosen = max(strength for strength, found in losses.items() if found.mean() <= bound)
        alone = solve_head(features[~held_out], targets[~held_out], strength=chosen * share_of(features, ~held_out))
        expected = alone(torch.tensor(features[held_out])).softmax(1)
        torch.testing.assert_close(head.out_of_fold[held_out].softmax(1), expected, rtol=0, atol=0.02)


def share_of(features, rows):
    """The scale is that of the whole set, also where some are held out."""
    return (scale_of(features) / scale_of(features[rows])) ** 2


def held_out_losses(features, targets, fold_of, strength):
    losses = np.empty(len(targets))
    for fold in range(5):
        inside = fold_of == fold
        head = solve_head(features[~inside], targets[~inside], strength=strength * share_of(features, ~inside))
        logits = head(torch.tensor(features[inside])).log_softmax(1).numpy()
        losses[inside] = -logits[np.arange(inside.sum()), targets[inside]]
    return losses


def test_the_path_goes_to_where_the_loss_is_least_and_no_further():
    features, targets = blobs(rows=300, dims=40, spread=4.0)
    strong = solve_head(features, targets).path  # hardly anything can be learned: a strong penalty is best
    assert strong[0].strength > 1
    easy = solve_head(*blobs(rows=300, spread=0.5)).path
    assert easy[0].strength < 1  # stronger ones were never tried
    moderate = solve_head(*blobs(rows=300, spread=1.0)).path
    assert min(strong[-1].strength, moderate[-1].strength) > 0.01
    for path in (strong, easy, moderate):
        assert [point.strength for point in path] == sorted((point.strength for point in path), reverse=True)
        # down from where the search begins, as long as a step gains half the standard error
        down = [point for point in path if point.strength < 0.4]
        gains = [before.loss - after.loss - after.standard_error / 2 for before, after in itertools.pairwise(down)]
        assert all(gain >= 0 for gain in gains[:-1])
        assert gains[-1] < 0 or path[-1].strength == STRENGTHS[-1]
        # up as long as the strongest may still be chosen
        least = min(path, key=lambda point: point.loss)
        may_be = [point.loss <= least.loss + least.standard_error for point in path]
        assert may_be[0] == (path[0].strength == 10)
        assert all(may for may, point in zip(may_be[1:], path[1:], strict=True) if point.strength > 0.3)


@pytest.mark.parametrize("solver", list_solvers())
def test_the_same_seed_gives_the_same_bits(solver):
    features, targets = blobs()
    first, second = (solve_head(features, targets, solver=solver, seed=3) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


@pytest.mark.parametrize("solver", list_solvers())
def test_scale_and_place_of_the_features_do_not_matter(solver):
    features, targets = blobs()
    plain = solve_head(features, targets, solver=solver, strength=0.1)(torch.tensor(features))
    large = features * np.float32(2**40)
    torch.testing.assert_close(solve_head(large, targets, solver=solver, strength=0.1)(torch.tensor(large)), plain,
                               rtol=1e-3, atol=1e-3)  # fmt: skip


@pytest.mark.parametrize("solver", list_solvers())
def test_constant_features_say_how_frequent_the_classes_are(solver):
    targets = np.array([0] * 12 + [1] * 4)
    head = solve_head(np.ones((16, 5), dtype=np.float32), targets, solver=solver)
    outputs = head(torch.ones(1, 5))
    assert torch.isfinite(outputs).all()
    if solver == "logistic":
        torch.testing.assert_close(outputs.softmax(1), torch.tensor([[0.75, 0.25]]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", list_solvers())
def test_one_example_per_class_is_solved_without_cross_validation(solver):
    features = np.eye(4, dtype=np.float32)
    head = solve_head(features, np.arange(4), solver=solver)
    assert (head(torch.tensor(features)).argmax(1).numpy() == np.arange(4)).all()


def test_a_lone_example_is_never_held_out():
    features, targets = blobs()
    targets = np.where(np.arange(90) == 7, 3, targets)
    head = solve_head(features, targets)
    assert torch.isnan(head.out_of_fold).all(dim=1).nonzero().flatten().tolist() == [7]


def test_a_layer_without_bias_is_solved_without_one():
    features, targets = blobs()
    head = solve_head(features, targets, intercept=False)
    assert not head.bias.any()
    assert (head(torch.tensor(features)).argmax(1).numpy() == targets).mean() > 0.6


def test_folds_are_stratified_keep_groups_whole_and_leave_each_class_an_example():
    strata = np.array([0] * 50 + [1] * 10 + [2] * 2 + [3])
    (folds,) = draw_folds(np.tile(strata, 5), 5, seed=0)[:1]
    assert np.ptp(np.bincount(folds[np.tile(strata, 5) == 1])) == 0
    folds = draw_folds(strata, 5, seed=0)[0]
    assert folds[-1] == ALWAYS_TRAINED
    assert folds[60] != folds[61]
    groups = np.arange(63) // 3
    for folds in draw_folds(strata, 5, seed=0, groups=groups):
        assert all(len(set(folds[groups == group])) == 1 for group in range(21))
        for fold in range(5):
            assert set(strata[folds != fold]) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "logistc"}, "There is no head solver 'logistc'. Did you mean 'logistic'?"),
        ({"classes": 2}, "Class indices run from 0 to 2; 0 to 1 fit."),
        ({"strength": 0.0}, "has to be above 0"),
        ({"targets": np.linspace(0, 1, 90)}, "needs classes, and the targets are numbers; ridge takes them"),
        ({"targets": np.ones((90, 2)), "solver": "prototypes"}, "needs one class per example"),
        ({"targets": np.zeros(5, dtype=int)}, "not as many targets"),
    ],
)
def test_what_cannot_be_solved_is_said(arguments, message):
    features, targets = blobs()
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        solve_head(features, **{"targets": targets, **arguments})


def test_features_that_are_not_finite_are_refused():
    features, targets = blobs()
    features[4, 2] = np.nan
    with pytest.raises(UserError, match="features of 1 examples are not finite, the first is number 4"):
        solve_head(features, targets)


@pytest.mark.parametrize("solver", list_solvers())
def test_pseudo_examples_are_learned_from_as_examples_are(solver):
    features, targets = blobs()
    pseudo = features[60:], targets[60:]
    head = solve_head(features[:60], targets[:60], solver=solver, strength=0.3, pseudo_examples=pseudo)
    expected = solve_head(features, targets, solver=solver, strength=0.3)
    assert torch.equal(head.weight, expected.weight)
    assert torch.equal(head.bias, expected.bias)


@pytest.mark.parametrize("solver", list_solvers())
def test_the_held_out_loss_of_a_strength_that_is_given_is_that_on_the_path(solver):
    features, targets = blobs()
    path = solve_head(features, targets, solver=solver).path
    point = path[len(path) // 2]
    head = solve_head(features, targets, solver=solver, strength=point.strength, cross_validate=True)
    assert [each.strength for each in head.path] == [head.strength] == [point.strength]
    assert head.held_out_loss == pytest.approx(point.loss, rel=0.02)
    alone = solve_head(features, targets, solver=solver, strength=point.strength)
    torch.testing.assert_close(head.weight, alone.weight, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("targets", "pseudo", "message"),
    [
        (np.arange(90) % 3, (np.full((3, 12), np.nan), np.arange(3)), "features of 3 pseudo-examples are not finite"),
        (np.arange(90) % 3, (np.zeros((3, 12)), np.array([0, 1, 3])), "0 to 2 fit"),
        (np.arange(90) % 3, (np.zeros((3, 11)), np.arange(3)), r"3 pseudo-examples are not of shape \(3, 11\)"),
        (np.arange(90) / 3, (np.zeros((3, 12)), np.arange(3)), "the targets are numbers"),
    ],
)
def test_pseudo_examples_that_do_not_fit_are_refused(targets, pseudo, message: str):
    solver = "ridge" if targets.dtype.kind == "f" else "logistic"
    with pytest.raises(UserError, match=message):
        solve_head(blobs()[0], targets, solver=solver, pseudo_examples=pseudo)


@pytest.mark.parametrize("solver", list_solvers())
def test_pseudo_examples_are_never_held_out(solver):
    features, targets = blobs()
    pseudo = features[60:] + 1, (targets[60:] + 1) % 3  # which tell lies
    head = solve_head(features[:60], targets[:60], solver=solver, pseudo_examples=pseudo)
    assert head.out_of_fold.shape == (60, 3)
    everything, labels = (
        np.concatenate([mine, others]) for mine, others in zip((features[:60], targets[:60]), pseudo, strict=True)
    )
    folds = draw_folds(targets[:60], 5, 0) if solver != "ridge" else np.arange(60)[None]
    lies = everything.astype(np.float64)
    scale = np.sqrt(((lies - lies.mean(axis=0)) ** 2).sum(axis=1).mean())
    losses = []
    for division in folds:
        for fold in range(division.max() + 1):
            kept = np.concatenate([division != fold, np.ones(30, dtype=bool)])
            # the scale of the features is that of all rows
            strength = head.strength * scale**2 / scale_of(everything[kept].astype(np.float64)) ** 2
            if solver == "prototypes":
                means = np.stack([lies[kept][labels[kept] == index].mean(axis=0) for index in range(3)])
                away = ((lies[~kept][:, None] - means) ** 2).sum(axis=2) / scale**2
                outputs = torch.tensor(-away / head.strength)
            else:
                partly = solve_head(everything[kept], labels[kept], classes=3, solver=solver, strength=strength)
                outputs = partly(torch.tensor(everything[~kept])).double()
            truth = torch.tensor(labels[~kept])
            signs = 2.0 * torch.nn.functional.one_hot(truth, 3) - 1
            losses += {
                "svm": lambda out, signs, truth: (1 - signs * out).clamp(min=0).square().sum(dim=1),
                "ridge": lambda out, signs, truth: (out - signs).square().sum(dim=1),
            }.get(solver, lambda out, signs, truth: torch.nn.functional.cross_entropy(out, truth, reduction="none"))(
                outputs, signs, truth
            ).tolist()
    assert head.held_out_loss == pytest.approx(np.mean(losses), rel=0.01)
    alone = solve_head(features[:60], targets[:60], solver=solver)
    assert head.held_out_loss > 1.05 * alone.held_out_loss
