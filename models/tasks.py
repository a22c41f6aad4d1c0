"""Tasks: which transformers class loads a checkpoint, and what its outputs are called."""

from __future__ import annotations

from dataclasses import dataclass

from raggedrt.errors import InputError


@dataclass(frozen=True)
class Task:
    """One row of the task table.

    Attributes:
        name: As on the command line.
        auto_class: Name of the class in `transformers` that loads the model.
        outputs: Names of the outputs; those in `optional_outputs` only where the model has them.
        architectures: Endings of `config.architectures` from which `auto` chooses this task.
    """

    name: str
    auto_class: str
    outputs: tuple[str, ...]
    architectures: tuple[str, ...] = ()
    optional_outputs: tuple[str, ...] = ()


FEATURE_EXTRACTION = Task(
    "feature-extraction",
    "AutoModel",
    ("last_hidden_state", "pooler_output"),
    ("Model", "ForPreTraining", "Encoder"),
    optional_outputs=("pooler_output",),
)
SENTENCE_EMBEDDING = Task("sentence-embedding", "AutoModel", ("sentence_embedding",))
TEXT_GENERATION = Task("text-generation", "AutoModelForCausalLM", ("logits",), ("ForCausalLM", "LMHeadModel"))

# Longer endings come first: "LMHeadModel" also ends in "Model".
TASKS: tuple[Task, ...] = (
    Task("text-classification", "AutoModelForSequenceClassification", ("logits",), ("ForSequenceClassification",)),
    Task("token-classification", "AutoModelForTokenClassification", ("logits",), ("ForTokenClassification",)),
    Task(
        "question-answering",
        "AutoModelForQuestionAnswering",
        ("start_logits", "end_logits"),
        ("ForQuestionAnswering",),
    ),
    Task("fill-mask", "AutoModelForMaskedLM", ("logits",), ("ForMaskedLM",)),
    TEXT_GENERATION,
    SENTENCE_EMBEDDING,
    FEATURE_EXTRACTION,
)
TASK_NAMES: tuple[str, ...] = ("auto", *sorted(task.name for task in TASKS))


def task_named(name: str) -> Task | None:
    """Returns the task, None for "auto".

    Raises:
        InputError: The name is unknown.
    """
    if name == "auto":
        return None
    for task in TASKS:
        if task.name == name:
            return task
    raise InputError(f"Unknown task '{name}'; expected one of {', '.join(TASK_NAMES)}.")


def task_from_architectures(architectures: list[str] | None, where: str) -> Task:
    """Chooses the task that `auto` stands for; a configuration without architectures is a plain encoder.

    Raises:
        InputError: The architecture belongs to no task.
    """
    if not architectures:
        return FEATURE_EXTRACTION
    for task in TASKS:
        if architectures[0].endswith(task.architectures):
            return task
    raise InputError(
        f"{where}: config.json names the architecture '{architectures[0]}', which belongs to no task known here. "
        f"Name one with --task: {', '.join(TASK_NAMES[1:])}."
    )
