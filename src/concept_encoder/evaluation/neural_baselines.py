"""Baselines that learn word vectors from the task alone: their mean (CBoW), and a BiLSTM, which reads their order.

Source: the two baselines of GLUE (Wang et al. 2019, arXiv:1804.07461), here without pretrained vectors; a pair is
`[u, v, |u - v|, u v]`, as there.

Shapes: B texts of a batch, N words, D width.
"""

import re
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from concept_encoder.data.tasks.load import Examples, TaskData

WORDS = r"\w+|[^\w\s]"  # words, and each punctuation mark
PADDING, UNKNOWN = 0, 1
WIDTH, MAX_WORDS = 100, 512
BATCH, EPOCHS, PATIENCE, LEARNING_RATE = 32, 30, 3, 3e-3


class MeanOfWords(nn.Module):
    """The mean of the word vectors: no order, no syntax."""

    size = WIDTH

    def forward(self, x_BND: Tensor, lengths_B: Tensor) -> Tensor:
        real_BN1 = (torch.arange(x_BND.shape[1]) < lengths_B[:, None])[..., None]
        return (x_BND * real_BN1).sum(1) / lengths_B[:, None]


class BiLSTM(nn.Module):
    """One bidirectional layer, the maximum over words."""

    size = 2 * WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)

    def forward(self, x_BND: Tensor, lengths_B: Tensor) -> Tensor:
        packed, _ = self.lstm(pack_padded_sequence(x_BND, lengths_B, batch_first=True, enforce_sorted=False))
        h_BND, _ = pad_packed_sequence(packed, batch_first=True, padding_value=-torch.inf)
        return h_BND.amax(1)


class _Learner(nn.Module):
    """Word vectors, a reader of them, and a linear layer."""

    def __init__(self, reader: nn.Module, words: int, sides: int, outputs: int):
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH, padding_idx=PADDING)
        self.reader = reader
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(reader.size * (1 if sides == 1 else 4), outputs)

    def forward(self, sides: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        vectors = [self.reader(self.dropout(self.embedding(ids_BN)), lengths_B) for ids_BN, lengths_B in sides]
        if len(vectors) == 2:
            u_BD, v_BD = vectors
            vectors = [u_BD, v_BD, (u_BD - v_BD).abs(), u_BD * v_BD]
        return self.output(self.dropout(torch.cat(vectors, -1)))


def learn_and_predict(reader: type[nn.Module], data: TaskData, seed: int) -> np.ndarray:
    """Train, with a tenth of the training side to stop by; answers `[T]` of the held-out side, the same for a seed."""
    numbers = data.kind == "regression"
    labels = torch.tensor(data.train.labels, dtype=torch.float32 if numbers else torch.long)
    mean, scale = (labels.mean(), labels.std().clamp_min(1e-6)) if numbers and len(labels) > 1 else (0, 1)
    table = _vocabulary(data.train)
    train, held_out = (_Rows(examples, table) for examples in (data.train, data.validation))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _Learner(reader(), len(table) + 2, len(train.sides), 1 if numbers else len(data.label_names))
        _train(model, train, (labels - mean) / scale if numbers else labels)
    answers = torch.cat([model(held_out.batch(rows)) for rows in torch.arange(len(data.validation)).split(256)])
    return (answers[:, 0] * scale + mean if numbers else answers.argmax(-1)).detach().numpy()


def _train(model: _Learner, rows: "_Rows", labels: Tensor) -> None:
    """Adam until the loss on the tenth has not fallen for some epochs; the weights of the best one stay."""
    loss_of = _squared_error if labels.is_floating_point() else F.cross_entropy
    order = torch.randperm(len(labels))
    tenth = len(labels) // 10
    chosen, part = order[tenth:], order[:tenth] if tenth else order
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    best, best_loss, waited = deepcopy(model.state_dict()), torch.inf, 0
    for _ in range(EPOCHS):
        model.train()
        for batch in chosen[torch.randperm(len(chosen))].split(BATCH):
            optimizer.zero_grad()
            loss_of(model(rows.batch(batch)), labels[batch]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = sum(float(loss_of(model(rows.batch(b)), labels[b])) * len(b) for b in part.split(256)) / len(part)
        waited = 0 if loss < best_loss else waited + 1
        if waited == 0:
            best, best_loss = deepcopy(model.state_dict()), loss
        if waited == PATIENCE:
            break
    model.load_state_dict(best)
    model.requires_grad_(False)


def _squared_error(answers_B1: Tensor, labels_B: Tensor) -> Tensor:
    return F.mse_loss(answers_B1[:, 0], labels_B)


class _Rows:
    """Texts as word numbers, a list for each side of a pair."""

    def __init__(self, examples: Examples, table: dict[str, int]):
        sides = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
        self.sides = [
            [torch.tensor([table.get(word, UNKNOWN) for word in _words(text)] or [UNKNOWN]) for text in side]
            for side in sides
        ]

    def batch(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Word numbers `[B, N]` and lengths `[B]` of each side."""
        chosen = [[side[row] for row in rows.tolist()] for side in self.sides]
        return [(pad_sequence(ids, batch_first=True), torch.tensor([len(row) for row in ids])) for ids in chosen]


def _vocabulary(examples: Examples) -> dict[str, int]:
    """Numbers of the words that training holds twice at least; the others teach what an unknown word is."""
    counts = Counter(word for text in [*examples.texts, *(examples.pairs or [])] for word in _words(text))
    return {word: i for i, word in enumerate((word for word, count in counts.items() if count > 1), UNKNOWN + 1)}


def _words(text: str) -> list[str]:
    return re.findall(WORDS, text.lower())[:MAX_WORDS]
