"""What sums in float32 may do to a row beside the roundings that the profile names: how loud a machine's own noise is in it.

Guarantees: pure, and computed from input and weights alone. Whatever order a machine sums in, whatever it flushes to zero, and
whether it holds inputs whole or as 16 bits a group of 32, this covers it: a sum's error is held against the size of what was summed,
not of what came out, so rows that cancel in gate, up or down are given what cancellation costs; and where inputs, sums or
answers leave the range in which the kernels are float32 arithmetic at all, the noise is infinite. Where a row is of ordinary size,
and cancels no more than random numbers do, it is far below the profile's tolerance.

An error of n sums is at most n roundings of the sum of absolute values; of unrelated signs, some sqrt(n) of these. Rows in use are
of the second kind, and the first would excuse half of all cheats. So `leeway` takes the second eightfold, and from the noise on that
no row in use has, which is the mark of rows that somebody made, proportionally more: up to any error at all, long before what sums could
do at worst.

Letters: m rows of one expert, H hidden size, I intermediate size, N outputs and K inputs of a product.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from .expert_arithmetic import Doubles, ExpertForm, ExpertWeights, Floats, activate, factors

UNIT: Final = 2.0**-24
"""A float32 rounding, relative."""
GROUP: Final = 32
GROUP_UNIT: Final = 2.0**-16
"""What holding inputs as whole numbers of 16 bits rounds, relative to the largest of a group: half of a 32767th. Tiles that take two
bfloat16 for an input round less."""
ACTIVATION_UNIT: Final = 2.0**-20
"""Of exponentials and divisions, some roundings of float32."""
SMALLEST: Final = 1e-20
"""Inputs below may count as zero: kernels scale by powers of two before they multiply."""
SMALLEST_PRODUCT: Final = 1e-31
SMALLEST_FLOAT32: Final = 2.0**-126
LARGEST: Final = 1e18
"""Numbers beyond may overflow inside: the same powers, unscaled whole numbers, squares."""
LARGEST_SUM: Final = 1e30
"""Nothing is multiplied with a sum over experts any more."""
LARGEST_FLOAT16: Final = 6e4
SMALLEST_FLOAT16: Final = 2.0**-25
"""Half the distance of the smallest numbers of float16: they must be rounded to, not flushed."""
FLOAT16_BITS: Final = 11
STEEPEST: Final = 1.13
"""No activation of a gate is steeper."""
SATURATED: Final = 2e-38
"""What an exponential that ends where float32 does leaves of a sigmoid."""
TIMES: Final = 8.0
USUAL: Final = 2.0**-11
"""Noise, relative to a row's size, that rows in use stay below."""
DEAFENING: Final = 2.0**-9
"""Noise beyond which nothing can be said of a row."""
_NEURONS_AT_ONCE: Final = 512


def leeway(noise: Doubles, sizes: Doubles) -> Doubles:
    """What noise excuses in rows of these sizes, relative to them: [m], infinite where nothing can be said."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = np.where(noise > 0, noise / sizes, 0.0)
        excused = TIMES * share * np.maximum(1.0, share / USUAL)
    return np.asarray(np.where(share <= DEAFENING, excused, np.inf))


def float_noise(
    form: ExpertForm, weights: ExpertWeights, rows: Floats, gate: Doubles | None, up: Doubles, answer: Doubles
) -> Doubles:
    """How far from the truth float32 takes one expert's answers, in L2: [m], infinite beyond the range.

    Args:
        form, weights: The expert.
        rows: [m, H].
        gate, up: [m, I], its exact first products.
        answer: [m, H], its exact answers.
    """
    inputs = np.asarray(rows, np.float64)
    some = np.any(inputs != 0, axis=1, keepdims=True)  # [m, 1]
    of_up, summed = _product_noise(form, inputs, some, weights.up, weights.up_bias)
    largest = [np.abs(inputs), summed]
    if gate is None or weights.gate is None:
        inner, risen = activate(form, None, up), np.maximum(up, 0.0)
        error = (2 * risen + of_up) * of_up  # [m, I]
    else:
        of_gate, gate_summed = _product_noise(form, inputs, some, weights.gate, weights.gate_bias)
        largest.append(gate_summed)
        first, second = factors(form, gate, up)
        inner = np.asarray(first * second)
        of_first = STEEPEST * of_gate + SATURATED * np.abs(gate)
        error = of_first * (np.abs(second) + of_up) + np.abs(first) * of_up
    error += ACTIVATION_UNIT * np.abs(inner) + _smallest_rounded(form) * (error > 0)
    largest.append(np.abs(inner) + error)
    of_answer, carried, answer_summed = _second_noise(form, weights, inner, error, some)
    largest.append(answer_summed)
    noise = np.sqrt(np.sum(np.square(of_answer), axis=1) + carried)
    rounded = [np.abs(up), np.abs(inner), np.abs(answer), *([] if gate is None else [np.abs(gate)])]
    inside = _all_below(largest, LARGEST) & _all_below(rounded, _largest_rounded(form))
    return np.asarray(np.where(inside, noise, np.inf))


def summing_noise(terms: int, parts: Doubles) -> Doubles:
    """What the gated sum over experts adds for each row, in L2: [n].

    Args:
        terms: Numbers in an answer, H.
        parts: [n, 3]: how many answers were added, the sum of their gated lengths, and of their lengths without gates.
    """
    count, gated, ungated = parts.T
    noise = (count + 1) * UNIT * gated + SMALLEST_FLOAT32 * (ungated + count * math.sqrt(terms))
    return np.asarray(np.where(gated <= LARGEST_SUM, np.where(gated + ungated > 0, noise, 0.0), np.inf))


def _product_noise(
    form: ExpertForm, inputs: Doubles, some: Doubles, matrix: Floats, bias: Floats | None
) -> tuple[Doubles, Doubles]:
    """The error of a product [m, N], and the sums of absolute values that it is of [m, N]."""
    absolute, squares = np.abs(inputs), np.square(_group_largest(inputs))
    summed, spread, flushed = (np.empty((len(inputs), len(matrix))) for _ in range(3))
    for start in range(0, len(matrix), _NEURONS_AT_ONCE):
        part = slice(start, start + _NEURONS_AT_ONCE)
        some_weights = np.abs(np.asarray(matrix[part], np.float64))
        summed[:, part] = absolute @ some_weights.T
        spread[:, part] = squares @ np.square(some_weights).T
        flushed[:, part] = SMALLEST * np.sum(some_weights, axis=1)
    if bias is not None:
        summed += np.abs(np.asarray(bias, np.float64))
    count = inputs.shape[1]
    floor = some * (flushed + count * SMALLEST_PRODUCT)
    error = np.sqrt(count * np.square(UNIT * summed) + np.square(GROUP_UNIT) * spread) + floor
    return error + _smallest_rounded(form) * (error > 0), summed


def _second_noise(
    form: ExpertForm, weights: ExpertWeights, inner: Doubles, error: Doubles, some: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """The error that the second product makes [m, H], the square of what it carries on [m], and the sums of absolute values [m, H].

    What came before it is carried on as errors of unrelated signs are; so is what grouping rounds.
    """
    columns, count = np.zeros(inner.shape[1]), inner.shape[1]
    summed, flushed = np.empty((len(inner), len(weights.down))), np.empty(len(weights.down))
    absolute = np.abs(inner)
    for start in range(0, len(weights.down), _NEURONS_AT_ONCE):
        part = slice(start, start + _NEURONS_AT_ONCE)
        some_weights = np.abs(np.asarray(weights.down[part], np.float64))
        summed[:, part] = absolute @ some_weights.T
        flushed[part] = SMALLEST * np.sum(some_weights, axis=1)
        columns += np.sum(np.square(some_weights), axis=0)
    if weights.down_bias is not None:
        summed += np.abs(np.asarray(weights.down_bias, np.float64))
    made = math.sqrt(count) * UNIT * summed + some * (flushed + count * SMALLEST_PRODUCT)
    made += _smallest_rounded(form) * (made > 0)
    carried = (np.square(error) + np.square(GROUP_UNIT * _group_largest(inner))) @ columns
    return made, carried, summed


def _group_largest(values: Doubles) -> Doubles:
    """For each number the largest size in its group of neighbours."""
    count = values.shape[1]
    padded = np.zeros((len(values), -(-count // GROUP) * GROUP))
    padded[:, :count] = np.abs(values)
    largest = padded.reshape(len(values), -1, GROUP).max(axis=2)
    return np.asarray(np.repeat(largest, GROUP, axis=1)[:, :count])


def _smallest_rounded(form: ExpertForm) -> float:
    return SMALLEST_FLOAT16 if form.significand_bits == FLOAT16_BITS else 0.0


def _largest_rounded(form: ExpertForm) -> float:
    return LARGEST_FLOAT16 if form.significand_bits == FLOAT16_BITS else LARGEST


def _all_below(parts: list[Doubles], most: float) -> npt.NDArray[np.bool_]:
    """Which rows have no number beyond, or that is none."""
    return np.asarray(np.logical_and.reduce([np.all(part <= most, axis=1) for part in parts]))
