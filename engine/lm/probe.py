"""The text-only hypernymy probe: does the LM know, without images, that a crow is a bird?

It is asked about every positive (leaf, hypernym) pair and about negatives, in several phrasings, and the next-token
logits of the two answers are saved. A plain forward does, so any causal LM can be probed, also those that cannot share
an image prefix.

That is the method `question`. The method `plausibility` asks nothing: it reads how probable the hypernym is after a
sentence about the leaf ("A crow is a type of ... bird"), less how probable after one about nothing ("This is a type of
... bird"), see `engine.lm.plausibility`. An LM that answers yes to everything may yet know the taxonomy so.

The published 14,863 negatives are 7,296 distinct pairs: those that the study's draws for the *test* images happen to
hit, each repeated once for every hypernym of its leaf, because the release lists the negatives of a leaf under each of
its positive pairs. (Draws like ours on the real taxonomy hit 7,317 pairs, SD 20, and give 14,921 repeats, SD 53; the
counts of all 53 hypernyms that can be recovered from the release's `coherence_backbone.csv` fit as well, and repeats
by image do not.) That is `negatives = "image-level"`; `distinct` has the same pairs once, `all` every false pair once.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from cachegen.common.device import choose_device, on_device
from cachegen.common.errors import ConditionError, ModelError
from cachegen.common.files import digest_bytes, write_atomically, write_json
from cachegen.common.hub import first_line
from cachegen.common.progress import progress_bar
from cachegen.data.dataset import Dataset
from cachegen.microworld.world import MANIFEST
from engine.design.condition import MOST_CHARACTERS, Condition
from engine.design.question_sets import noun_of
from engine.design.questions import Categories, build_questions
from engine.lm.language_model import FrozenLM
from engine.lm.loading import lm_digests, load_config, load_model, load_tokenizer, positions_of, resolve_lm, rows_of
from engine.lm.plausibility import Continuations, log_probabilities, tokenise_continuations
from engine.lm.prompts import encode, quoted, refuse_beyond, refuse_phrases

SCHEMA = 1

# Said to chat templates that know them: no thinking, and one date instead of today's (Llama's own default).
CHAT = {"enable_thinking": False, "date_string": "26 Jul 2024"}

HYPERNYM_AT_END = re.compile(r"\{(hypernym_\w+)\}$")

RENDER_SECONDS = 20
# A chat template is a program by anyone. This renders one question in a process with little memory and time of its own,
# much as transformers does it, and prints how long it is; what else fails there fails again, with a better reason.
RENDER = """
import json, os, re, resource, sys
from jinja2.sandbox import ImmutableSandboxedEnvironment
template, given = json.load(sys.stdin)
seconds = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
if os.path.exists("/proc/self/statm"):
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 2**30, taken + 2**30))
jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
jinja.globals["strftime_now"] = lambda form: form
jinja.filters["tojson"] = lambda value, **_: json.dumps(value)
try:
    print(len(jinja.from_string(re.sub(r"{%-?\\s*(end)?generation\\s*-?%}", "", template)).render(**given)))
except MemoryError:
    raise
except Exception:
    print(0)
"""


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe asks.

    phrasings: questions with {leaf_phrase} ("a crow"), {leaf_noun} ("crow"), {is}, {Is} (by the leaf's number),
    {hypernym_phrase} ("a bird") and {hypernym_noun} ("bird"). The release's own have plural forms, which a dataset
    does not give; the first one here is the paper's. With the method `plausibility` they are sentences that end in the
    hypernym, and may begin with {Leaf_phrase} ("A crow"); of their text before it the carrier is made.
    neutral: for each of these, or for all, the sentence without a leaf; it may have {this}, {This} (these, of a
    plural). template: around a question where no chat template is used; a space before {answer} becomes part of its
    token. chat_template: use the tokenizer's, if it has one.
    """

    method: Literal["question", "plausibility"] = "question"
    phrasings: tuple[str, ...] = (
        "Is it true that {leaf_phrase} {is} a type of {hypernym_noun}?",
        "Is it true that {leaf_phrase} {is} {hypernym_phrase}?",
        "{Is} {leaf_phrase} a type of {hypernym_noun}?",
        "{Is} {leaf_phrase} {hypernym_phrase}?",
    )
    neutral: tuple[str, ...] = ()
    template: str = "Question: {question}\nAnswer: {answer}"
    answer_yes: str = "Yes"
    answer_no: str = "No"
    chat_template: bool = True
    negatives: Literal["distinct", "image-level", "all"] = "image-level"
    data_seed: int = 0
    lm_init: Literal["pretrained", "random"] = "pretrained"
    lm_seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if "{question}" not in self.template or not self.template.endswith("{answer}"):
            raise ConditionError(f"template {self.template!r} needs {{question}}, and {{answer}} at its end")
        for text in (self.template, self.answer_yes, self.answer_no, *self.phrasings, *self.neutral):
            if len(text) > MOST_CHARACTERS:
                raise ConditionError(f"{quoted(text)} has {len(text):,} characters, more than {MOST_CHARACTERS:,}")
        for phrasing in self.phrasings:
            if "{leaf_" not in phrasing.lower() or "{hypernym_" not in phrasing:
                raise ConditionError(f"phrasing {phrasing!r} must name both: {{leaf_phrase}} and {{hypernym_phrase}}")
        if self.method == "plausibility":
            self._check_carriers()

    def _check_carriers(self) -> None:
        if len(self.neutral) not in (1, len(self.phrasings)):
            raise ConditionError(
                f"{len(self.phrasings)} carriers have {len(self.neutral)} neutral sentences; give one --neutral for "
                "all, or one for each --phrasing"
            )
        for phrasing, neutral in self.carriers:
            fields = [HYPERNYM_AT_END.search(text) for text in (phrasing, neutral)]
            alike = all(fields) and len({field[1] for field in fields if field}) == 1
            if not alike or "{leaf_" in neutral.lower() or f"{phrasing}{neutral}".count("{hypernym_") > 2:
                raise ConditionError(
                    f"{phrasing!r} and {neutral!r} are no pair of carrier and neutral sentence; end both in "
                    "{hypernym_noun}, or both in {hypernym_phrase}, nowhere else, and name no leaf in the neutral one"
                )

    @property
    def carriers(self) -> list[tuple[str, str]]:
        """Each phrasing with its neutral sentence."""
        return list(zip(self.phrasings, self.neutral * (len(self.phrasings) // len(self.neutral)), strict=True))


PLAUSIBILITY: dict[str, Any] = {
    "phrasings": (
        "{Leaf_phrase} {is} a type of {hypernym_noun}",
        "{Leaf_phrase} {is} a kind of {hypernym_noun}",
        "I know that {leaf_phrase} {is} a type of {hypernym_noun}",
        "{Leaf_phrase} {is} {hypernym_phrase}",
    ),
    "neutral": (
        "{This} {is} a type of {hypernym_noun}",
        "{This} {is} a kind of {hypernym_noun}",
        "I know that {this} {is} a type of {hypernym_noun}",
        "{This} {is} {hypernym_phrase}",
    ),
    "negatives": "all",  # they share the leaf's sentence, and so cost little
}

# A microworld's LM was trained on scenes of a few words and questions about them, in this very form, and on statements;
# it has never seen "Is it true that".
MICROWORLD: dict[str, Any] = {
    "phrasings": (
        "{leaf_noun} is there {hypernym_phrase}",
        "{leaf_noun} {leaf_noun} is there {hypernym_phrase}",
        "{leaf_noun} today is there {hypernym_phrase}",
        "here {leaf_noun} is there {hypernym_phrase}",
    ),
    "template": "{question} {answer}",
    "answer_yes": "yes",
    "answer_no": "no",
}
MICROWORLD_PLAUSIBILITY = PLAUSIBILITY | {
    "phrasings": ("{leaf_phrase} is {hypernym_phrase}", "{leaf_phrase} and {leaf_phrase} is {hypernym_phrase}"),
    "neutral": ("there is {hypernym_phrase}",),
}


def settings_for(lm: str, **given: Any) -> ProbeSettings:
    """Settings that suit an LM and the method: those for microworlds if it lies in a world's folder; then `given`."""
    of_world = (Path(os.path.realpath(lm)).parent / MANIFEST).is_file()
    if given.get("method") == "plausibility":
        return ProbeSettings(**(MICROWORLD_PLAUSIBILITY if of_world else PLAUSIBILITY) | given)
    return ProbeSettings(**(MICROWORLD if of_world else {}) | given)


@dataclass(frozen=True)
class ProbeTokens:
    """`ids`: tokens of every prompt, an answer to come next. `yes`, `no`: tokens of that answer, then of the forms in
    other case that are one token too; the first of each is the one whose logit is saved."""

    ids: list[list[int]]
    yes: list[int]
    no: list[int]


def probe_pairs(dataset: Dataset, negatives: str, data_seed: int) -> pd.DataFrame:
    """What is asked about: columns leaf, hypernym, answer, repeats (questions a row stands for), sorted.

    No negative is true in words: pairs whose hypernym reads the same as one of the leaf's are left out.
    """
    true = dataset.pairs[["leaf", "hypernym"]].assign(answer=True, repeats=1)
    if negatives == "all":
        known = Categories.of(dataset)
        leaf, column = np.nonzero(~known.truth[:, len(known.leaves) :])
        false = pd.DataFrame({"leaf": np.take(known.leaves, leaf), "hypernym": np.take(known.hypernyms, column)})
    else:
        asked = build_questions(dataset, Condition.model_validate({"data_seed": data_seed}))
        drawn = asked[(asked["split"] == "test") & (asked["kind"] == "hypernym") & ~asked["answer"]]
        false = drawn[["label_leaf", "category"]].drop_duplicates()
        false.columns = pd.Index(["leaf", "hypernym"])
    per_item = false["leaf"].map(dataset.pairs["leaf"].value_counts()) if negatives == "image-level" else 1
    pairs = pd.concat([true, false.assign(answer=False, repeats=per_item)])
    return pairs.sort_values(["leaf", "hypernym"]).astype({"repeats": "int32"}).reset_index(drop=True)


def phrase_questions(dataset: Dataset, pairs: pd.DataFrame, phrasing: str) -> list[str]:
    """`phrasing` about every row of `pairs`. Raises `ConditionError` for a field that does not exist."""
    leaves, hypernyms = (
        table.assign(noun=table["phrase"].map(noun_of)) for table in (dataset.leaves, dataset.hypernyms)
    )
    leaf, hypernym = leaves.loc[pairs["leaf"]], hypernyms.loc[pairs["hypernym"]]
    plural = leaf["number"] == "plural"
    verb, this = np.where(plural, "are", "is"), np.where(plural, "these", "this")
    first = leaf["phrase"].str[:1].str.upper() + leaf["phrase"].str[1:]
    columns: list[Any] = [leaf["phrase"], first, leaf["noun"], hypernym["phrase"], hypernym["noun"]]
    columns += [verb, np.char.capitalize(verb), this, np.char.capitalize(this)]
    names = ("leaf_phrase", "Leaf_phrase", "leaf_noun", "hypernym_phrase", "hypernym_noun", "is", "Is", "this", "This")
    try:
        fields = [part[1:] for part in Formatter().parse(phrasing) if part[1] is not None]
        if any(name not in names or form or conversion for name, form, conversion in fields):
            raise ValueError  # an attribute of a field, or a width of a billion spaces
        return [phrasing.format(**dict(zip(names, cells, strict=True))) for cells in zip(*columns, strict=True)]
    except ValueError:
        known = ", ".join(f"{{{name}}}" for name in names)
        raise ConditionError(f"phrasing {phrasing!r} has a field that does not exist; fields are {known}") from None


def tokenise_prompts(
    questions: list[str], tokenizer: Any, settings: ProbeSettings, chat: bool, rows: int | None = None
) -> ProbeTokens:
    """Tokens of the prompts, each answer tokenised together with every one of them; `rows`: that the LM embeds.

    Raises `ConditionError` unless both answers are one further token of their own after each prompt, and what
    `engine.lm.prompts` raises for questions and tokens that no LM should see.
    """
    refuse_phrases(tokenizer, questions)
    if chat:
        texts = _in_chat_template(questions, tokenizer)
    else:
        frame = settings.template.removesuffix("{answer}")
        texts = [frame.replace("{question}", question) for question in questions]
    # A chat template writes its special tokens itself; a space at the end goes into the answer's token.
    ids = encode(tokenizer, [text.rstrip(" ") for text in texts], add_special_tokens=not chat)["input_ids"]
    if not all(ids):
        raise ConditionError("the tokenizer makes no token of a prompt; give another --template, or choose another LM")

    def added(word: str) -> int | None:
        """The one token that `word` adds to each prompt, if it is the same one everywhere."""
        joint = encode(tokenizer, [text + word for text in texts], add_special_tokens=not chat)["input_ids"]
        if any(after[:-1] != before for before, after in zip(ids, joint, strict=True)):
            return None
        tokens = {after[-1] for after in joint}
        return int(tokens.pop()) if len(tokens) == 1 and tokens != {tokenizer.unk_token_id} else None

    forms = []
    for option, answer in (("--answer-yes", settings.answer_yes), ("--answer-no", settings.answer_no)):
        tokens = [added(word) for word in dict.fromkeys([answer, answer.lower(), answer.capitalize()])]
        if tokens[0] is None:
            raise ConditionError(
                f"answer {answer!r} is not one known token of its own after {quoted(texts[0])}; give another "
                f"{option}, or another --template (a line break, a space or nothing before {{answer}})"
            )
        forms.append([token for token in tokens if token is not None])
    if set(forms[0]) & set(forms[1]):
        raise ConditionError(
            f"{settings.answer_yes!r} and {settings.answer_no!r} share a token; give answers that differ"
        )
    refuse_beyond(tokenizer, rows, [*ids, *forms])
    return ProbeTokens(ids, *forms)


def _in_chat_template(questions: list[str], tokenizer: Any) -> list[str]:
    """Each question as a user's message in the tokenizer's chat template, the assistant's answer to come next.

    One is rendered in a process of its own first. Raises `ConditionError` if that fails.
    """
    messages = [[{"role": "user", "content": question}] for question in questions]
    try:
        given = {"messages": messages[0], "add_generation_prompt": True, **tokenizer.special_tokens_map, **CHAT}
        tried = subprocess.run(
            [sys.executable, "-c", RENDER, str(RENDER_SECONDS)],
            input=json.dumps([tokenizer.get_chat_template(), given], default=str),
            capture_output=True,
            text=True,
            check=False,
        )
        if tried.returncode:
            raise ValueError(f"it takes more than {RENDER_SECONDS} seconds or 1 GiB")
        if int(tried.stdout) > 10 * MOST_CHARACTERS:
            raise ValueError(f"it makes {int(tried.stdout):,} characters of it")
        return list(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **CHAT))
    except Exception as error:  # of a template's own making: any type
        raise ConditionError(
            f"the tokenizer's chat template refuses the question ({first_line(error)}); use --no-chat-template"
        ) from None


# Shapes: B = prompts of one batch, T = tokens of each, D = width, V = vocabulary.


@torch.no_grad()
def ask(model: Any, prompts: ProbeTokens, max_tokens: int, advance: Callable[[int], None]) -> pd.DataFrame:
    """Logits and ranks of the answers, one row per prompt: logit_yes, logit_no (float32), rank_yes, rank_no (int32).

    A rank is the number of tokens with a larger logit than the best form of that answer. A batch holds prompts of one
    length, so that nothing is padded and no family's mask or positions can be wrong. Raises `ModelError` for logits
    that are not finite.
    """
    lengths = np.array([len(ids) for ids in prompts.ids])
    logits = np.empty((len(lengths), 2), dtype=np.float32)
    ranks = np.empty((len(lengths), 2), dtype=np.int32)
    forms = [on_device(np.array(tokens), model.device) for tokens in (prompts.yes, prompts.no)]
    with answers_in_float32(model, [*prompts.yes, *prompts.no]):
        for length in np.unique(lengths):
            same = np.flatnonzero(lengths == length)
            for rows in np.split(same, range(0, len(same), max(1, max_tokens // length))[1:]):
                ids_BT = on_device(np.array([prompts.ids[row] for row in rows]), model.device)
                logits_BV = model(input_ids=ids_BT, use_cache=False).logits[:, -1].float()
                for column, tokens in enumerate(forms):
                    of_forms = logits_BV.index_select(1, tokens)
                    ranks[rows, column] = (logits_BV > of_forms.amax(1, keepdim=True)).sum(1).cpu().numpy()
                    logits[rows, column] = of_forms[:, 0].cpu().numpy()
                advance(len(rows))
    if not np.isfinite(logits).all():
        raise ModelError(f"{type(model).__name__} gives logits that are not finite; try another --dtype")
    return pd.DataFrame(
        {"logit_yes": logits[:, 0], "logit_no": logits[:, 1], "rank_yes": ranks[:, 0], "rank_no": ranks[:, 1]}
    )


@contextmanager
def answers_in_float32(model: Any, tokens: list[int]) -> Iterator[None]:
    """Let the head see the last position only, and compute these tokens' logits in float32.

    bf16 logits near 20 step by 0.125. What a family does with logits afterwards (scaling, soft caps) still happens.
    """
    head = model.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(model).__name__} has no output head to read answers from; choose another LM")

    places = on_device(np.array(tokens), head.weight.device)
    weight = head.weight.index_select(0, places).float()
    bias = None if head.bias is None else head.bias.index_select(0, places).float()

    def last(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0][:, -1:].contiguous(),)

    def exact(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output.float().index_copy(-1, places, nn.functional.linear(inputs[0].float(), weight, bias))

    hooks = [head.register_forward_pre_hook(last), head.register_forward_hook(exact)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def run_probe(
    dataset: Dataset, lm: str, settings: ProbeSettings, device: str = "auto", max_tokens: int = 4096
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Probe one LM; return (table, record).

    table: one row per phrasing and pair: leaf, hypernym, phrasing (0, 1, ...), answer, repeats, and what the method
    gives: of `ask`, or of `weigh`.
    record: everything that decides the numbers; one prompt per phrasing as the LM saw it; and how many prompts hold
    words that its tokenizer does not know.
    """
    folder = resolve_lm(lm)
    pairs = probe_pairs(dataset, settings.negatives, settings.data_seed)
    tokenizer, config = load_tokenizer(folder), load_config(folder)  # before the weights, which take minutes
    forms = pd.concat([pairs.assign(phrasing=np.int32(n)) for n in range(len(settings.phrasings))], ignore_index=True)
    made = _prompts_of_questions if settings.method == "question" else _carriers_and_phrases
    prompts, chat, method = made(dataset, pairs, settings, tokenizer, rows_of(config))
    longest, most = max(map(len, prompts.ids)), positions_of(config)
    if most is not None and longest > most:
        raise ConditionError(f"a prompt has {longest} tokens, the LM in {folder} reads {most}; shorten the phrasings")
    model, _ = load_model(folder, settings.lm_init, settings.lm_seed, settings.dtype)
    place = choose_device(device)
    with progress_bar(f"probing {lm}", len(prompts.ids), "prompts") as advance:
        if isinstance(prompts, ProbeTokens):
            found = ask(model.to(place).eval(), prompts, max_tokens, advance)
        else:
            found = weigh(FrozenLM.wrap(model, tokenizer, place), prompts, len(forms), max_tokens, advance)
    columns = ["leaf", "hypernym", "phrasing", "answer", "repeats"]
    digests = lm_digests(folder, settings.lm_init)
    said = {name: value for name, value in asdict(settings).items() if name not in ("method", "neutral")}
    record = said | {
        "schema": SCHEMA,
        "lm": lm,
        "lm_digest": digests["lm"],
        "tokenizer_digest": digests["tokenizer"],
        "dataset_digest": dataset.digest,
        "phrasings": list(settings.phrasings),
        "chat_template": chat,
        "prompts": [tokenizer.decode(prompts.ids[form * len(pairs)]) for form in range(len(settings.phrasings))],
        "unknown_words": sum(tokenizer.unk_token_id in ids for ids in prompts.ids),
    }
    return forms[columns].join(found), record | method


def _prompts_of_questions(
    dataset: Dataset, pairs: pd.DataFrame, settings: ProbeSettings, tokenizer: Any, rows: int | None
) -> tuple[ProbeTokens, bool, dict[str, Any]]:
    """Prompts of every phrasing and pair; whether in a chat template; nothing more to record."""
    chat = settings.chat_template and bool(tokenizer.chat_template)
    asked = [question for phrasing in settings.phrasings for question in phrase_questions(dataset, pairs, phrasing)]
    return tokenise_prompts(asked, tokenizer, settings, chat, rows), chat, {}


def _carriers_and_phrases(
    dataset: Dataset, pairs: pd.DataFrame, settings: ProbeSettings, tokenizer: Any, rows: int | None
) -> tuple[Continuations, bool, dict[str, Any]]:
    """All carriers with the hypernyms, then as many neutral ones; no chat template; what else is to be recorded."""
    carriers, phrases = [], []
    for forms in zip(*settings.carriers, strict=True):  # those with leaves, then the neutral ones
        for form in forms:
            field = HYPERNYM_AT_END.search(form)
            assert field is not None
            before = phrase_questions(dataset, pairs, form[: field.start()])
            carriers += [text.rstrip(" ") for text in before]
            named = phrase_questions(dataset, pairs, form[field.start() :])
            phrases += [" " * (text != text.rstrip(" ")) + name for text, name in zip(before, named, strict=True)]
    texts = tokenise_continuations(tokenizer, carriers, phrases, rows)
    return texts, False, {"method": settings.method, "neutral": [neutral for _, neutral in settings.carriers]}


def weigh(
    lm: FrozenLM, texts: Continuations, count: int, max_tokens: int, advance: Callable[[int], None]
) -> pd.DataFrame:
    """Log-probabilities of the hypernyms in nats: logp, after the leaf's carrier; neutral, after the neutral one; and
    tokens, how many they are the sums of.

    `texts`: `count` with carriers, then the same with neutral ones. Equal texts are read once.
    """
    first: dict[tuple[tuple[int, ...], int], int] = {}
    of_text = [
        first.setdefault((tuple(ids), start), len(first)) for ids, start in zip(texts.ids, texts.starts, strict=True)
    ]
    each = Continuations([list(ids) for ids, _ in first], [start for _, start in first])
    advance(len(of_text) - len(first))
    found = log_probabilities(lm, each, max_tokens, advance)[of_text]
    return pd.DataFrame({"logp": found[:count], "neutral": found[count:], "tokens": texts.counts[:count]})


def probe_path(out: Path, record: dict[str, Any]) -> Path:
    """`out` itself if it is a .parquet file, else a name inside the folder `out` that two probes never share."""
    if out.suffix == ".parquet":
        return out
    weights = "pretrained" if record["lm_init"] == "pretrained" else f"random{record['lm_seed']}"
    content = {name: value for name, value in record.items() if name != "lm"}  # its digest says more than its path
    digest = digest_bytes(json.dumps(content, sort_keys=True).encode())[:8]
    method = f"-{record['method']}" if "method" in record else ""
    return out / f"{Path(os.path.realpath(record['lm'])).name}-{weights}{method}-{digest}.parquet"


def write_probe(path: Path, table: pd.DataFrame, record: dict[str, Any]) -> None:
    """Write `path` and its record beside it, as .json; the table last."""
    write_json(path.with_suffix(".json"), record)
    write_atomically(path, lambda temporary: table.to_parquet(temporary, index=False))
