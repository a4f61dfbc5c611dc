"""Adversarial images as 8-bit images."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import qadv
from qadv.diagnostics.audit import run
from qadv.diagnostics.audit.ball import Ball
from qadv.diagnostics.audit.case import AuditCase
from qadv.diagnostics.audit.checks.eight_bit_images import EightBitImages
from qadv.diagnostics.audit.settings import FEW_STEPS
from qadv.diagnostics.audit.target import Target


def levels(x, low=0.0, high=1.0):
    return (x.double() - low) / (high - low) * 255


def drawn(*shape, seed):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("clip_values", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
@pytest.mark.parametrize("norm", [math.inf, 2])
def test_points_are_rounded_to_8_bit_images_inside_the_ball(norm, clip_values):
    low, high = clip_values
    level = (high - low) / 255
    x = (low + (255 * drawn(30, 1, 3, 3, seed=0)).round().double() * level).float()
    ball = Ball(2.5 * level, norm, low, high)
    points = ball.project(x + 6 * level * (drawn(30, 1, 3, 3, seed=1) - 0.5), x)
    rounded, inside = ball.as_8_bit(points, x)
    codes = levels(rounded, low, high)
    torch.testing.assert_close(codes, codes.round(), atol=2e-5, rtol=0)
    assert low <= rounded.min() <= rounded.max() <= high
    assert inside.all(), "the image itself is one"
    far = (rounded - x).flatten(1).double().norm(norm, dim=1)
    assert (far <= ball.eps * (1 + 1e-4)).all()
    plain = levels(points, low, high).round()
    held = (plain - levels(x, low, high)).flatten(1).norm(norm, dim=1) <= 2.5
    assert (codes.round() == plain)[held].all(), "what rounding leaves inside is the nearest"
    assert not held.all()
    again, _ = ball.as_8_bit(rounded, x)
    assert again.equal(rounded)


def test_what_rounding_carries_out_of_an_l2_ball_comes_back_near_by():
    x = (levels(drawn(40, 1, 2, 2, seed=0)).round() / 255).float()
    ball = Ball(2.2 / 255, 2, 0.0, 1.0)
    points = ball.project(x + 0.05 * (drawn(40, 1, 2, 2, seed=1) - 0.5), x)
    here, at = levels(points).flatten(1), levels(x).flatten(1).round()
    codes = levels(ball.as_8_bit(points, x)[0]).flatten(1)
    moves = torch.tensor(list(itertools.product(range(-2, 3), repeat=4))).double()
    moves = moves[moves.norm(dim=1) <= 2.2]
    everywhere = at[:, None] + moves
    least = (
        (everywhere - here[:, None]).norm(dim=2).masked_fill((everywhere < 0).any(2) | (everywhere > 255).any(2), 99)
    )
    assert ((codes - here).norm(dim=1) <= 1.3 * least.amin(dim=1) + 1e-4).all()


def test_a_ball_may_hold_no_8_bit_image():
    x = torch.full((2, 1, 2, 2), 0.5)  # 127.5 levels
    x[1] = 100 / 255
    for norm in (math.inf, 2):
        assert Ball(0.4 / 255, norm, 0.0, 1.0).as_8_bit(x, x)[1].tolist() == [False, True]


def case_of(trained, digits, **options):
    x = (np.round(255 * digits.x_test[:12]) / 255).astype(np.float32)
    return AuditCase(Target(trained, 64), x, digits.y_test[:12], settings=FEW_STEPS, **{"eps": 0.2, **options})


def test_check_12_counts_what_still_works_and_judges_nothing(trained, digits):
    case = case_of(trained, digits)
    assert EightBitImages().examine(case).figure == "no adversarial image was found"
    broken = case.attack("PGD", case.pgd(8), case.clean)
    found = EightBitImages().examine(case)
    rounded, _ = case.ball.as_8_bit(*map(torch.from_numpy, (case.worst_case().adversarial[broken], case.x[broken])))
    works = int((trained.predict(rounded.numpy()).argmax(1) != case.y[broken]).sum())
    assert found.values == {"survive": works, "adversarial": int(broken.sum()), "none_inside": 0}
    assert (found.verdict, found.grade) == ("passed", "nothing against it")
    assert f"{works} of {broken.sum()} still work" in found.figure
    tiny = case_of(trained, digits, eps=0.2)
    tiny.ball = replace(tiny.ball, eps=0.4 / 255)
    tiny.x[:] = tiny.x + 0.5 / 255 * np.where(tiny.x < 0.5, 1, -1).astype(np.float32)
    tiny.attack("darker", lambda x, y: x, tiny.clean)
    tiny._in_floats[:] = True
    found = EightBitImages().examine(tiny)
    assert (found.values["survive"], found.values["none_inside"]) == (0, 12)


def test_only_8_bit_images_count_where_pixels_are_8_bit(trained, digits):
    clean = case_of(trained, digits).x

    for pixels, counted in (("float", 12), ("uint8", 0)):
        inside = case_of(trained, digits, pixels=pixels)
        inside.clean[:] = inside.fresh[:] = True
        inside._broken_by[:] = ""
        # misclassified unless it is an image itself
        inside.target.broken = lambda x, y: np.abs(x - clean).reshape(len(x), -1).max(axis=1) > 0.1 / 255
        broken = inside.attack("between levels", lambda x, y: x + np.float32(0.4 / 255), inside.fresh)
        assert broken.sum() == counted == (~inside.survivors).sum()
        assert inside.in_floats.sum() == 12
        assert EightBitImages().examine(inside).values == {"survive": 0, "adversarial": 12, "none_inside": 0}


def test_the_worst_case_of_8_bit_pixels_is_made_of_8_bit_images(trained, digits, monkeypatch, only_checks):
    monkeypatch.setattr(run, "QUICK", replace(FEW_STEPS, steps=8))
    only_checks(lambda number: number in (3, 9, 12))
    x, y = digits.x_test[:20], digits.y_test[:20]
    result = qadv.audit(trained, x, y, eps=[0.05, 0.2], norm=2, pixels="uint8", verbose=False)
    worst = result.worst_case
    broken = np.array([by not in ("", "clean") for by in worst.broken_by])
    assert broken.any()
    codes = levels(torch.from_numpy(worst.adversarial[broken]))
    torch.testing.assert_close(codes, codes.round(), atol=2e-5, rtol=0)
    assert ((trained.predict(worst.adversarial).argmax(1) == y) == worst.robust).all()
    assert np.linalg.norm((worst.adversarial - x).reshape(20, -1), axis=1).max() <= 0.2 + 1e-5
    assert "within L2 0.2 by 8-bit images (clean" in result.headline
    assert result.to_dict()["pixels"] == "uint8"
    assert "8-bit" not in qadv.audit(trained, x[:2], y[:2], eps=0.2, verbose=False).headline
    with pytest.raises(qadv.errors.InvalidInputError, match="pixels: expected one of float, uint8"):
        qadv.audit(trained, x, y, pixels="uint4")
