"""How far a student has drifted from what a teacher knows, token by token, and what the teacher's word is worth there.

rho_t = |top-k of the teacher and of the student at t| / k (KAT-V2.5). Late in a drifted trajectory the teacher sees
what it would never have written, and its log-probs explode.
"""

from __future__ import annotations

import numpy as np


def overlap(student_TK: np.ndarray, teacher_TK: np.ndarray) -> np.ndarray:
    """Return rho_T, the share of the student's likeliest tokens _TK that are among the teacher's, 1 without any."""
    if not student_TK.shape[1]:
        return np.ones(len(student_TK))
    return (student_TK[:, :, None] == teacher_TK[:, None, :]).any(2).mean(1)


def drift_weights(rho_T: np.ndarray, sampled_T: np.ndarray, *, power: float, below: float, run: int) -> np.ndarray:
    """Return the weight in [0, 1] of each sampled token: rho^power, and 0 from where `run` tokens in a row drifted.

    A sampled token has drifted when its rho is lower than `below`; the first tokens of that run count as well, what is
    before stays (KAT-V2.5 masks the gradient and keeps the valid prefix). `power` 0 and `below` 0 are weight 1.
    """
    rho_M = rho_T[np.asarray(sampled_T, bool)]
    weight_M = rho_M**power
    lost = 0
    for place, rho in enumerate(rho_M.tolist()):
        lost = lost + 1 if rho < below else 0
        if lost == run:
            weight_M[place + 1 - run :] = 0
            break
    weight_T = np.zeros(len(rho_T), np.float32)
    weight_T[np.asarray(sampled_T, bool)] = weight_M
    return weight_T
