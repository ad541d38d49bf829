"""Prompts as tokens: cut at the image after tokenising the whole, one token per answer, clear refusals."""

import numpy as np
import pytest
from small_study import SETTINGS, word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cachegen.common.errors import ConditionError
from engine.design.condition import Condition
from engine.design.questions import question_text
from engine.lm.prompts import tokenise

ASKED = [("a crow", "singular"), ("scissors", "plural"), ("a star fruit", "singular")]
TEXT = ["Is there a crow in this image?\nYes", "Are there scissors in this image?\nNo"] * 20


def bpe(bos=False, vocabulary=400):
    """A byte-level BPE like Qwen's, or with a first token like Llama's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<bos>"] if bos else []
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXT, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.token_to_id("<bos>"))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>" if bos else None)


@pytest.mark.parametrize("bos", [False, True], ids=["like Qwen", "like Llama"])
@pytest.mark.parametrize("template", ["{image}\n{question}\n", "<image>\n{question}\n", "look: {image} {question}\n"])
def test_tokens_are_those_of_the_whole_text(bos, template):
    tokenizer = bpe(bos)
    tokens = tokenise(Condition(template=template), tokenizer, ASKED)
    assert set(tokens.rows) == set(ASKED)
    for question, row in tokens.rows.items():
        text = template.replace("{image}", "").replace("{question}", question_text(Condition(), *question))
        suffix = tokens.suffixes[row, : tokens.lengths[row]]
        assert [*tokens.prefix, *suffix] == tokenizer(text)["input_ids"]
        assert (tokens.suffixes[row, tokens.lengths[row] :] == 0).all()
        for answer, token in (("Yes", tokens.yes), ("No", tokens.no)):
            assert [*tokens.prefix, *suffix, token] == tokenizer(text + answer)["input_ids"]
    before = tokenizer.decode(tokens.prefix)
    expected = {"{": "", "<": "<", "l": "look: "}[template[0]]
    if template[0] == "<":  # the release: patches follow the first token, whatever it is
        assert len(tokens.prefix) == 1
        assert before == ("<bos>" if bos else "<")
    else:
        assert before.replace("<bos>", "") == expected


def test_plural_leaves_are_asked_in_the_plural():
    assert question_text(Condition(), "scissors", "plural") == "Are there scissors in this image?"
    assert question_text(Condition(), "a crow", "singular") == "Is there a crow in this image?"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "Is{image} there {question}\n", "question_singular": "{phrase}"}, None),
        ({"template": "Is the{image}re {question}\n"}, "token spans the image position"),
        ({"template": "{question} {image}\n"}, "tokens before the image differ"),
        ({"answer_yes": "Certainly"}, "'Certainly' is not exactly one token"),
        ({"template": "{image}{question} Ye", "answer_yes": "s"}, "is not exactly one token"),
    ],
)
def test_refusals_say_what_to_change(settings, message):
    condition = Condition(**settings)
    if message is None:
        assert tokenise(condition, bpe(), ASKED).rows
    else:
        with pytest.raises(ConditionError, match=message):
            tokenise(condition, bpe(), ASKED)


def test_an_answer_unknown_to_the_vocabulary_is_refused():
    tokenizer = word_tokenizer(["is", "there", "a", "crow", "yes"])
    with pytest.raises(ConditionError, match="no token of its own"):
        tokenise(Condition(**SETTINGS), tokenizer, [("a crow", "singular")])


def test_the_suffix_length_is_a_constant_of_the_study():
    tokens = tokenise(Condition(), bpe(), ASKED)
    assert tokens.suffixes.shape == (3, tokens.lengths.max())
    assert len(np.unique(tokens.lengths)) > 1


def test_long_phrases_are_refused_before_they_are_tokenised():
    for length in (10_001, 120_000):
        with pytest.raises(ConditionError, match=f"a question of {length:,} characters") as caught:
            tokenise(Condition(), bpe(), [*ASKED, ("a" * length, "singular")])
        assert len(str(caught.value)) < 400


@pytest.mark.parametrize("settings", [{"answer_yes": "Certainly"}, {"template": "Is the{image}re {question}\n"}])
def test_a_long_prompt_is_shown_by_its_end(settings):
    with pytest.raises(ConditionError) as caught:
        tokenise(Condition(**settings), bpe(), [("crow " * 1000, "singular")])
    assert len(str(caught.value)) < 600
    assert "crow  in this image?" in str(caught.value)
