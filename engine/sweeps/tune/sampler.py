"""Which settings come next, and what mattered: Optuna, asked anew for each batch.

The study is built in memory from the trials so far, in their order, and its sampler is seeded by the study's seed and
the number of the batch's first trial. So a batch follows from the file and the trials before it alone: a search that
was killed proposes what an undisturbed one would have. (Optuna's own file storage also works without a server, but it
holds time stamps and not the state of the sampler.)
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cachegen.common.errors import ConditionError
from cachegen.common.rng import stream_seed
from engine.design.condition import Condition
from engine.sweeps.tune.record import Trial
from engine.sweeps.tune.table import Params, Range, TuneTable

if TYPE_CHECKING:
    import optuna

DIGITS = 4  # of a searched number that is no integer, so that it can be read and copied
TOP = 0.25  # importance says what sets this share of the complete trials apart
ENOUGH = 8  # complete trials, fewer of which tell nothing about importance


def load_optuna() -> Any:
    """Optuna, without its log. Raises `ConditionError` where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ConditionError("crosstax tune needs optuna; pip install 'crosstax[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def propose(table: TuneTable, trials: Sequence[Trial]) -> list[Params]:
    """Settings of the next batch after `trials`, at most as many as the study still wants."""
    first, last = len(trials), min(len(trials) + table.batch, table.count)
    if table.sampler == "grid":
        return table.cells[first:last]
    optuna = load_optuna()
    seed = stream_seed(table.seed, "tune", first) % 2**32
    if table.sampler == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # in Optuna 4 both options are called experimental
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=table.startup, seed=seed, multivariate=True, constant_liar=True
            )
    study, space = _study(table, trials, sampler), _distributions(table)
    return [_readable(study.ask(space).params, table) for _ in range(first, last)]


def importance(table: TuneTable, trials: Sequence[Trial]) -> dict[str, float] | None:
    """Share of each field in what sets the best quarter of complete trials apart (PED-ANOVA).

    None with fewer complete trials than tell anything.
    """
    complete = [trial for trial in trials if trial.state == "complete"]
    if len(complete) < ENOUGH:
        return None
    optuna = load_optuna()
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TOP)
    shares = optuna.importance.get_param_importances(_study(table, complete, None), evaluator=evaluator)
    return {name: round(float(share), 6) for name, share in shares.items()}


def _study(table: TuneTable, trials: Sequence[Trial], sampler: Any) -> "optuna.Study":
    """The trials as Optuna knows them. One that failed counts as pruned before its first rung: worse than any other."""
    optuna = load_optuna()
    study = optuna.create_study(direction="maximize", sampler=sampler)
    space = _distributions(table)
    states = optuna.trial.TrialState
    for trial in trials:
        complete, failed = trial.state == "complete", trial.state == "failed"
        study.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE if complete else states.PRUNED,
                value=trial.value if complete else None,
                params=trial.params,
                distributions=space,
                intermediate_values={rung.epochs: rung.value for rung in trial.rungs if not failed},
            )
        )
    return study


def _distributions(table: TuneTable) -> dict[str, Any]:
    optuna = load_optuna()
    found = {}
    for name, values in table.space.items():
        if not isinstance(values, Range):
            found[name] = optuna.distributions.CategoricalDistribution(values)
        elif _is_whole(name):
            found[name] = optuna.distributions.IntDistribution(values.low, values.high, values.log, values.step or 1)
        else:
            found[name] = optuna.distributions.FloatDistribution(values.low, values.high, values.log, values.step)
    return found


def _readable(params: Params, table: TuneTable) -> Params:
    """Numbers of a range without steps shortened to a few digits, inside their range."""
    found = {}
    for name, values in table.space.items():
        value = params[name]
        if isinstance(values, Range) and values.step is None and not _is_whole(name):
            value = min(max(float(f"{value:.{DIGITS}g}"), float(values.low)), float(values.high))
        found[name] = value
    return found


def _is_whole(name: str) -> bool:
    return Condition.model_fields[name].annotation is int
