"""Digits that nobody here drew: those of a font for plotters, whose lines are strokes of a pen.

A. V. Hershey, "Calligraphy for Computers", U.S. Naval Weapons Laboratory, 1967: the font Roman Simplex. The
numbers are those of the package Hershey-Fonts 2.1.0 ('futural'), which is not installed because it brings
along a package `tests` that would stand in for this one.
"""

import math

import numpy as np

Strokes = list[list[list[float]]]

_DIGITS = (
    "9,-12 6,-11 4,-8 3,-3 3,0 4,5 6,8 9,9 11,9 14,8 16,5 17,0 17,-3 16,-8 14,-11 11,-12 9,-12",
    "6,-8 8,-9 11,-12 11,9",
    "4,-7 4,-8 5,-10 6,-11 8,-12 12,-12 14,-11 15,-10 16,-8 16,-6 15,-4 13,-1 3,9 17,9",
    "5,-12 16,-12 10,-4 13,-4 15,-3 16,-2 17,1 17,3 16,6 14,8 11,9 8,9 5,8 4,7 3,5",
    "13,-12 3,2 18,2|13,-12 13,9",
    "15,-12 5,-12 4,-3 5,-4 8,-5 11,-5 14,-4 16,-2 17,1 17,3 16,6 14,8 11,9 8,9 5,8 4,7 3,5",
    "16,-9 15,-11 12,-12 10,-12 7,-11 5,-8 4,-3 4,2 5,6 7,8 10,9 11,9 14,8 16,6 17,3 17,2 16,-1 14,-3 11,-4 "
    "10,-4 7,-3 5,-1 4,2",
    "17,-12 7,9|3,-12 17,-12",
    "8,-12 5,-11 4,-9 4,-7 5,-5 7,-4 11,-3 14,-2 16,0 17,2 17,5 16,7 15,8 12,9 8,9 5,8 4,7 3,5 3,2 4,0 6,-2 "
    "9,-3 13,-4 15,-5 16,-7 16,-9 15,-11 12,-12 8,-12",
    "16,-5 15,-2 13,0 10,1 9,1 6,0 4,-2 3,-5 3,-6 4,-9 6,-11 9,-12 10,-12 13,-11 15,-9 16,-5 16,0 15,5 13,8 "
    "10,9 8,9 5,8 4,6",
)


def digit(label: int) -> list[np.ndarray]:
    """The strokes of a digit, points `[n, 2]` across and down, 21 high."""
    strokes = _DIGITS[label].split("|")
    return [np.array([point.split(",") for point in stroke.split()], float) for stroke in strokes]


def drawn(label: int, random: np.random.Generator) -> Strokes:
    """A digit as one person may draw it on a pad of side 1: somewhere, of any size, width, turn and slant."""
    turn, slant = random.uniform(-0.2, 0.2), random.uniform(-0.25, 0.25)
    cos, sin = math.cos(turn), math.sin(turn)
    size = random.uniform(0.01, 0.035) * np.diag(random.uniform(0.75, 1.25, 2))
    matrix = np.array([[cos, -sin], [sin, cos]]) @ [[1, slant], [0, 1]] @ size
    place = random.uniform(0.3, 0.7, 2)
    return [(points @ matrix.T + place).tolist() for points in digit(label)]
