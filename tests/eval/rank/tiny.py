"""What the tests of rankings share: a tiny space, and tiny hypernetworks of it."""

import dataclasses

from architectures.spaces import NASBench201
from eval.scoring import ScoreConfig
from ghn import GHNConfig, Hypernetwork, Preprocessing
from train.data import Splits
from train.finetune import FinetuneConfig

SPACE = NASBench201(channels=2, stages=1, input_shape=(6, 6, 1), classes=10)
TUNED = ScoreConfig(images=30, finetune=FinetuneConfig(learning_rate=0.05, batch=20))
TINY = GHNConfig(width=8, message_width=4, hidden=8, tile=4)


def tiny(splits: Splits, config: GHNConfig = TINY, seed: int = 0) -> Hypernetwork:
    train = splits.train
    known = Preprocessing(train.mean, train.std, train.class_names)
    created = Hypernetwork.create(SPACE, config, seed)
    return dataclasses.replace(created, preprocessing=known, held_out=(0.5, 0))
