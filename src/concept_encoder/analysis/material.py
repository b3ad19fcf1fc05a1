"""What a subject reads: texts of one's own, the held-out texts of its run, or the held-out examples of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from concept_encoder.data.conllu import TaggedSentence, tagged
from concept_encoder.data.corpus import DataConfig, labelled_documents
from concept_encoder.data.tasks.config import TaskConfig
from concept_encoder.data.tasks.load import TaskData, load_task
from concept_encoder.data.tasks.tagging import TaggedExamples
from concept_encoder.errors import UserError
from concept_encoder.settings import from_mapping, load_yaml


@dataclass(frozen=True)
class Material:
    """Texts, or pairs of them, with the labels of a task where there is one.

    Attributes:
        source: where they come from, as the report says it.
        pairs: the second text of each pair.
        task: whose held-out examples these are, in order.
        max_length: longer texts are cut; None is what the model takes.
    """

    texts: list[str]
    source: str = "texts"
    pairs: list[str] | None = None
    task: TaskData | None = None
    max_length: int | None = None

    @classmethod
    def of_texts(cls, texts: Sequence[str], source: str = "texts") -> "Material":
        """Plain texts; blank ones are left out."""
        return cls([text for text in texts if text.strip()], source)

    @classmethod
    def of_task(cls, config: TaskConfig) -> "Material":
        """The held-out examples of a task; words with tags are joined by spaces. Errors as in `load_task`."""
        task = load_task(config)
        examples, source = task.validation, f"held-out examples of {task.name}"
        if isinstance(examples, TaggedExamples):
            texts = [" ".join(words) for words in examples.words]
            return cls(texts, source, None, task, config.max_length)
        return cls(examples.texts, source, examples.pairs, task, config.max_length)

    @property
    def sentences(self) -> list[TaggedSentence] | None:
        """Words with the names of their tags, where the task has a tag for every word."""
        if self.task is None or not isinstance(self.task.validation, TaggedExamples):
            return None
        names, examples = self.task.label_names, self.task.validation
        return [tagged(words, [names[tag] for tag in tags]) for words, tags in zip(examples.words, examples.labels)]


def run_of(checkpoint: str | Path) -> Path:
    """The folder of the run: of a checkpoint inside one, or the folder itself."""
    path = Path(checkpoint)
    if path.resolve().parent.name != "checkpoints":
        return path
    run = path.resolve().parent.parent
    return path.parent.parent if path.parent.parent.resolve() == run else run  # not so from inside checkpoints/


def held_out_material(checkpoint: str | Path, count: int) -> Material:
    """The first `count` held-out texts of the run that made a checkpoint, as the run's recipe.yaml says.

    A fine-tuned run's are the held-out examples of its task, `count` of them chosen by a hash of their text.

    Raises:
        UserError: no recipe beside the checkpoint, or what it names cannot be read.
    """
    run = run_of(checkpoint)
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise UserError(
            f"{checkpoint}: no {recipe} says which texts were held out; give a file of texts (--texts FILE)"
        )
    try:
        data = load_yaml(recipe).get("data") or {}
        if "corpus" not in data:
            return Material.of_task(from_mapping(TaskConfig, {"max_examples": count} | _given(data), "data"))
        config = from_mapping(DataConfig, data, "data")
        texts = list(islice((text for held_out, text in labelled_documents(config) if held_out), count))
        names = " + ".join(config.weights) if config.validation_corpus is None else config.validation_corpus
    except UserError as error:
        raise UserError(f"{recipe}: {error}; to read other texts give --texts FILE") from None
    if not texts:
        raise UserError(f"{recipe}: its corpus holds no held-out text; give a file of texts (--texts FILE)")
    return Material.of_texts(texts, f"held-out documents of {names} ({recipe})")


def _given(fields: dict) -> dict:
    return {name: value for name, value in fields.items() if value is not None}
