from experiments import base
from mmids_cnn import config as config_lib


def test_base_is_complete_and_round_trips() -> None:
    experiment = config_lib.resolve(base.get_config())
    assert config_lib.resolve(config_lib.to_dict(experiment)) == experiment


def test_mnist_is_whole(mnist) -> None:
    assert len(mnist.splits["train"].labels) == 60_000
