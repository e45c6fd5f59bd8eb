"""Which settings to try, and the record of them: an Optuna study that its dashboard and tools open.

Suggestions come in batches by ask and tell. Trial number n is the same wherever the sweep was interrupted: a
grid or random setting depends on n alone; a suggestion of TPE on n and the results of all earlier batches.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mmids_cnn.errors import FaultError, RunError
from mmids_cnn.storage import files
from mmids_cnn.sweeps import folder as sweep_folder
from mmids_cnn.sweeps import plan as plan_lib
from mmids_cnn.sweeps import space
from mmids_cnn.sweeps.folder import JOURNAL
from mmids_cnn.sweeps.plan import Plan
from mmids_cnn.sweeps.trials import PRUNED, Result, Trial


class DamageError(RunError):
    """The record is not what was written."""


@contextlib.contextmanager
def answering(address: str) -> Iterator[None]:
    """Raises `FaultError` where a database stops to answer inside the block."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise FaultError(
            f"config.sweep.storage: expected a database that answers at {address}, found none any more; see "
            "to it, then give the same command again to go on"
        ) from error


def open_study(plan: Plan, workdir: Path, data: str, say: Callable[[str], None]) -> "Study":
    """The record of a sweep; a journal that was damaged is set aside, and begun anew.

    No training is lost with it: what members have come to is in files of their own.

    Args:
      plan: the sweep.
      workdir: its folder, locked by this process; the journal lies there.
      data: the fingerprint of the data that trials are trained on.
      say: told of damage.

    Raises:
      RunError: see `Study`; a database was damaged, or a journal is of another sweep.
    """
    name, journal = sweep_folder.study_name(plan, workdir), workdir / JOURNAL
    try:
        return Study(plan, workdir, name, data)
    except DamageError as error:
        if plan.sweep.storage:
            raise
        if sweep_folder.recorded(workdir) is None:  # whose trials they are nothing tells any more
            raise DamageError(
                f"{error}, and no whole {sweep_folder.PLAN} beside it; put a copy of either back, or give "
                "the sweep another --workdir"
            ) from error
        aside = journal.with_name(f"{JOURNAL}.damaged")
        os.replace(journal, aside)
        say(f"{error}; kept as {aside.name}, and written anew")
    return Study(plan, workdir, name, data)


class Study:
    """The record of a sweep.

    Args:
      plan: the sweep.
      workdir: the run folder, locked by this process; the journal lies there.
      name: what the study is called in the storage.
      data: the fingerprint of the data that trials are trained on.

    Raises:
      RunError: the storage cannot be used, or has a study of that name of another configuration or of other
        data.
      DamageError: it is not what was written.
    """

    def __init__(self, plan: Plan, workdir: Path, name: str, data: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._plan, self._name = plan, name
        where = plan.sweep.storage or str(workdir / JOURNAL)
        direction = StudyDirection[plan.sweep.direction.upper()]
        try:
            self._storage = _database(where) if plan.sweep.storage else _journal(workdir / JOURNAL, name)
            try:  # nothing is written to one that is there
                self._study = optuna.load_study(study_name=name, storage=self._storage)
            except KeyError:
                self._study = optuna.create_study(
                    storage=self._storage, study_name=name, direction=direction, load_if_exists=True
                )
            if self._study.direction != direction:
                raise _OtherError(f"one that is to {self._study.direction.name.lower()}")
            self._id = self._storage.get_study_id_from_name(name)
            self._distributions = distributions(plan)
            self._claim({"sweep": json.dumps(plan_lib.identity(plan), sort_keys=True), "data": data})
        except (OSError, RunError, optuna.exceptions.StorageInternalError):
            raise
        except Exception as error:  # a changed line makes Optuna raise almost anything, wherever it is used
            found = str(error) if isinstance(error, _OtherError) else f"{type(error).__name__} ({error})"
            raise DamageError(f"{where}: expected the record of this sweep, found {found}") from error

    def batches(self) -> list[range]:
        """The numbers of the trials, by batches that are suggested together."""
        size = self._plan.sweep.batch if self._plan.sweep.search == "tpe" else max(self._plan.trials, 1)
        starts = range(0, self._plan.trials, size)
        return [range(start, min(start + size, self._plan.trials)) for start in starts]

    def ask(self, batch: range) -> list[Trial]:
        """The trials of a batch, those of the batches before it being finished; running until told."""
        known = self._study.get_trials(deepcopy=False)
        missing = [number for number in batch if number >= len(known)]
        if missing and self._plan.sweep.search == "tpe":
            suggested = self._suggest(known, batch, missing)
        else:
            suggested = [parameters(self._plan.point(number)) for number in missing]
        for params in suggested:
            # One entry in the record for number, parameters and state: a kill leaves all of it or nothing.
            asked = {"number": len(self._study.get_trials(deepcopy=False)), "params": params}
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING,
                    params=params,
                    distributions=self._distributions,
                    user_attrs={"asked": files.digest_of_json(asked)},
                )
            )
        trials = self._study.get_trials(deepcopy=False)
        return [Trial(number, self._settings(trials[number])) for number in batch]

    def told(self) -> set[int]:
        """Numbers of the finished trials."""
        trials = self._study.get_trials(deepcopy=False)
        return {trial.number for trial in trials if trial.state.is_finished()}

    def results(self) -> list[Result]:
        """What has come of the finished trials, by number."""
        trials = [t for t in self._study.get_trials(deepcopy=False) if t.state.is_finished()]
        return [
            Result(
                trial.number,
                self._settings(trial),
                trial.user_attrs["state"],
                trial.user_attrs["value"],
                trial.user_attrs["seeds"],
            )
            for trial in trials
        ]

    def tell(self, result: Result, curve: Mapping[int, float]) -> None:
        """Finishes a trial; one that is finished stays as it is.

        Args:
          result: what has come of it.
          curve: the metric by epoch, mean over the seeds.
        """
        if result.number in self.told():
            return
        number = self._storage.get_trial_id_from_study_id_trial_number(self._id, result.number)
        attributes = {name: getattr(result, name) for name in ("state", "value", "seeds")}
        state, value = self._told(result.state, result.value)
        told = {**attributes, "curve": curve, "told": [state.name, value]}
        for name, attribute in {**attributes, "self": files.digest_of_json(told)}.items():
            self._storage.set_trial_user_attr(number, name, attribute)
        for epoch, point in curve.items():
            self._storage.set_trial_intermediate_value(number, epoch, point)
        self._study.tell(result.number, value, state)

    def _told(self, state: str, value: float | None) -> tuple[TrialState, float | None]:
        """What Optuna is told of a trial that ended in a state with a value."""
        # TPE counts pruned trials among the bad ones. One that diverged has no value: -inf would be in every
        # mean and picture of whoever reads the study, and failed trials TPE leaves out.
        return (TrialState.PRUNED, None) if state == PRUNED or value is None else (TrialState.COMPLETE, value)

    def _claim(self, claims: dict[str, str]) -> None:
        """Refuses a study of this name that another sweep has begun, and one that was changed."""
        attributes = self._study.user_attrs
        found = {key: attributes.get(key, text) for key, text in claims.items()}
        if attributes.get("self") not in (None, files.digest_of_json(found)):
            raise _OtherError("another")
        expected = {
            "sweep": f"no study {self._name!r} but this sweep's",
            "data": f"the data that study {self._name!r} began with",
        }
        for key, text in claims.items():
            if found[key] != text:
                raise RunError(
                    f"config.sweep: expected {expected[key]}, found another; give the sweep another --workdir"
                )
        trials = self._study.get_trials(deepcopy=False)
        if not trials:
            for key, text in {**claims, "self": files.digest_of_json(claims)}.items():
                self._study.set_user_attr(key, text)
        elif "self" in attributes:  # those of earlier versions have no digests
            for trial in trials:
                self._require_intact(trial)

    def _require_intact(self, trial: FrozenTrial) -> None:
        """Raises `_OtherError` unless all of a trial that counts is as it was written."""
        asked = {"number": trial.number, "params": trial.params}
        intact = trial.user_attrs["asked"] == files.digest_of_json(asked)
        intact &= trial.distributions == self._distributions
        if trial.state.is_finished():
            told = {name: trial.user_attrs[name] for name in ("state", "value", "seeds")}
            value = None if trial.state == TrialState.PRUNED else trial.value
            told |= {"curve": trial.intermediate_values, "told": [trial.state.name, value]}
            intact &= trial.user_attrs["self"] == files.digest_of_json(told)
        if not intact:
            raise _OtherError(f"another trial {trial.number}")

    def _suggest(
        self, known: Sequence[FrozenTrial], batch: range, missing: list[int]
    ) -> list[dict[str, Any]]:
        """What TPE suggests, asked of a study in memory that knows no more than the batches before this one.

        Trials of the batch count as running, though some may be finished by now: where the sweep was
        interrupted must not show.
        """
        memory = optuna.create_study(direction=self._study.direction)
        memory.add_trials([trial for trial in known if trial.number < batch.start])
        for trial in known[batch.start :]:
            memory.add_trial(
                optuna.trial.create_trial(
                    state=TrialState.RUNNING, params=trial.params, distributions=self._distributions
                )
            )
        suggested = []
        for number in missing:
            seed = int(np.random.SeedSequence([self._plan.experiment.seed, number]).generate_state(1)[0])
            memory.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            suggested.append(memory.ask(self._distributions).params)
        return suggested

    def _settings(self, trial: FrozenTrial) -> dict[str, Any]:
        settings = {}
        for axis in self._plan.axes:
            value = trial.params[axis.leaf]
            if isinstance(axis.domain, space.Choice):  # tuples are stored as text
                value = next(option for option in axis.domain.options if _plain(option) == value)
            settings[axis.leaf] = value
        return settings


class _OtherError(Exception):
    """Something is not what was written."""


def _journal(path: Path, name: str) -> BaseStorage:
    _mend(path)
    storage = JournalStorage(JournalFileBackend(str(path)))
    for other in optuna.get_all_study_names(storage):
        if other != name:
            raise _OtherError(f"that of study {other!r}")
    return storage


def _with_driver(address: str) -> str:
    """The address with the driver of the extra `postgresql`, where it names PostgreSQL and no driver."""
    return address.replace("postgresql://", "postgresql+psycopg://", 1)


def _database(address: str) -> BaseStorage:
    try:
        return optuna.storages.get_storage(_with_driver(address))
    except Exception as error:  # SQLAlchemy and its drivers raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(
            f"config.sweep.storage: expected a database that answers at {address}, found: "
            f"{reason}; see to it, or set --config.sweep.storage= to a file"
        ) from error


def _mend(journal: Path) -> None:
    """Takes away what a kill may leave: a lock that nobody holds, a last line without its end."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError), open(journal, "r+b") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)


def _distribution(domain: space.Domain) -> BaseDistribution:
    match domain:
        case space.Choice(options):
            return CategoricalDistribution([_plain(option) for option in options])
        case space.Integers(low, high):
            return IntDistribution(low, high)
        case space.Range(low, high, log):
            return FloatDistribution(low, high, log=log)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, tuple) else value


def parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as Optuna keeps them."""
    return {leaf: _plain(value) for leaf, value in settings.items()}


def distributions(plan: Plan) -> dict[str, BaseDistribution]:
    """The space as Optuna has it, by leaf."""
    return {axis.leaf: _distribution(axis.domain) for axis in plan.axes}
