"""The grader of the toy lab: a lab's test_lab.py."""

import pytest

from x1.course.grading import exercise, expect


@exercise("mfu")
def test_half(mfu, rng):
    flops = rng.uniform(1e12, 1e15)
    expect(mfu(flops, 2 * flops) == 0.5, "half", flops=flops)


@exercise("mfu")
def test_no_peak(mfu):
    with pytest.raises(ZeroDivisionError):
        mfu(1e12, 0.0)


@exercise("mean_square")
@pytest.mark.parametrize("count", [1, 3])
def test_sign(mean_square, rng, count):
    values = list(rng.normal(size=count))
    turned = mean_square([-value for value in values])
    expect(abs(mean_square(values) - turned) < 1e-9, "sign", values=values)


@exercise("mean_square")
def test_one(mean_square, tmp_path, small):
    (tmp_path / "small").write_text(str(small))
    assert mean_square([3.0]) > 0
    expect(mean_square([3.0]) == 9.0, "one", values=[3.0])
