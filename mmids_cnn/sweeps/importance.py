"""How much each setting of a sweep matters, by functional ANOVA of what its trials came to."""

import importlib.util
from collections.abc import Callable, Sequence

import optuna
from optuna.importance import FanovaImportanceEvaluator
from optuna.study import StudyDirection
from optuna.trial import TrialState

from mmids_cnn.sweeps import study
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.trials import COMPLETE, Result

FEWEST = 10  # complete trials: a forest of fewer says little but which of them was the best


def importances(
    plan: Plan, results: Sequence[Result], value: Callable[[float], float]
) -> dict[str, float] | None:
    """The share of the variance over the space that each setting explains by itself; they sum to 1.

    Functional ANOVA (Hutter, Hoos and Leyton-Brown, ICML 2014) over a random forest that is fitted to the
    complete trials, as Optuna has it; what settings explain together is left out. The same trials give the
    same shares.

    Args:
      plan: the sweep.
      results: of its trials.
      value: of the metric, what variance is taken of.

    Returns:
      Shares by leaf, the largest first; None where there is one setting alone, too few complete trials
      (`FEWEST`), no difference between them, or no scikit-learn.
    """
    complete = [one for one in results if one.state == COMPLETE and one.value is not None]
    values = [value(one.value or 0.0) for one in complete]
    if len(plan.axes) < 2 or len(complete) < FEWEST or max(values) == min(values):
        return None
    if importlib.util.find_spec("sklearn") is None:
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    memory = optuna.create_study(direction=StudyDirection[plan.sweep.direction.upper()])
    for one, at in zip(complete, values, strict=True):
        memory.add_trial(
            optuna.trial.create_trial(
                state=TrialState.COMPLETE,
                value=at,
                params=study.parameters(one.settings),
                distributions=study.distributions(plan),
            )
        )
    found = optuna.importance.get_param_importances(memory, evaluator=FanovaImportanceEvaluator(seed=0))
    return {leaf: float(share) for leaf, share in found.items()}
