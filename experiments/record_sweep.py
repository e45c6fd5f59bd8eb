"""Which weight decay is best for `record.py`, by 10,000 images held out of the training split.

Three of them, five seeds each, as one population: two minutes on an H200; on a CPU set
--config.sweep.population to its cores. The result is in tests/benchmarks/records/searches/record.csv.

    python -m mmids_cnn.main --config=experiments/record_sweep.py
"""

from ml_collections import ConfigDict

from experiments import record, sweep


def get_config() -> ConfigDict:
    """Returns the search."""
    config = sweep.for_recipe(record.get_config())
    config.sweep.space.optimizer.weight_decay = "choice(0.0, 0.01, 0.03)"
    config.sweep.search = "grid"
    config.sweep.seeds = 5
    config.sweep.population = 15
    return config
