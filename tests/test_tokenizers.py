"""Prompts in the tokenizers of several families: with and without a first token, answers, and what is refused."""

import pytest
from small_study import word_tokenizer
from tiny import SENTENCES, STYLES, tiny_tokenizer

from cachegen.errors import ConditionError
from engine.condition import Condition
from engine.prompts import question_text, tokenise

ASKED = [("a crow", "singular"), ("scissors", "plural"), ("a bird", "singular")]
RELEASE = "<image>\n{question}"  # no {image}: the patches follow the first token; the answer has no space before it
# Text in which answers follow the question mark at once, so that merges join them where the style lets them.
JOINED = [*SENTENCES, "in this image?Yes", "in this image?No", "Yes", "No"]


def texts_of(tokens, tokenizer):
    """(text before the image, {question: text after it}), as the tokens spell them."""
    after = {
        question: tokenizer.decode(tokens.suffixes[row, : tokens.lengths[row]]) for question, row in tokens.rows.items()
    }
    return tokenizer.decode(tokens.prefix), after


@pytest.mark.parametrize(
    ("style", "template", "prefix", "yes"),
    [
        ("qwen", "{image}\n{question}\n", [], "Yes"),
        ("qwen", RELEASE, ["<image"], "Yes"),
        ("qwen", "See {image}\n{question}", ["S", "e", "e", " "], " Yes"),
        ("llama3", "{image}\n{question}\n", ["<|begin_of_text|>"], "Yes"),
        ("llama3", RELEASE, ["<|begin_of_text|>"], "Yes"),
        ("gpt_neox", "{image}\n{question}\n", [], "Yes"),
        ("gpt_neox", RELEASE, ["<"], "Yes"),
        ("sentencepiece", "{image}\n{question}\n", ["<s>"], " Yes"),
        ("sentencepiece", RELEASE, ["<s>"], " Yes"),
    ],
)
def test_the_image_stands_first_or_after_the_first_token(style, template, prefix, yes):
    """With a first token (BOS) the image comes after it, without one at the very beginning; text is never lost."""
    tokenizer = tiny_tokenizer(style)
    condition = Condition(template=template, answer_yes=yes, answer_no=yes.replace("Yes", "No"))
    tokens = tokenise(condition, tokenizer, ASKED)
    assert [tokenizer.decode([token]) for token in tokens.prefix] == prefix
    assert (tokenizer.decode([tokens.yes]), tokenizer.decode([tokens.no])) == (yes, yes.replace("Yes", "No"))
    before, after = texts_of(tokens, tokenizer)
    bos = STYLES[style][1] or ""
    for question, text in after.items():
        whole = template.replace("{image}", "").replace("{question}", question_text(condition, *question))
        assert (before + text).removeprefix(bos).removeprefix(" ") == whole  # SentencePiece begins with a space


@pytest.mark.parametrize("style", ["qwen", "llama3", "sentencepiece"])
def test_an_answer_that_merges_with_the_prompt_is_refused_with_what_works(style):
    tokenizer = tiny_tokenizer(style, sentences=JOINED)
    end = " image?" if style == "sentencepiece" else "?"
    with pytest.raises(ConditionError) as caught:
        tokenise(Condition(template=RELEASE), tokenizer, ASKED)
    assert f"this image?': the tokens {end!r} become {end + 'Yes'!r}; " in str(caught.value)
    assert "it is one as 'Yes' after a line break, or as ' Yes' after a template without white space" in str(
        caught.value
    )
    # What the message proposes is accepted.
    for template, yes, no in ((RELEASE + "\n", "Yes", "No"), (RELEASE, " Yes", " No")):
        tokens = tokenise(Condition(template=template, answer_yes=yes, answer_no=no), tokenizer, ASKED)
        assert tokenizer.decode([tokens.yes]) == yes


def test_a_style_that_keeps_signs_apart_does_not_merge():
    tokens = tokenise(Condition(template=RELEASE), tiny_tokenizer("gpt_neox", sentences=JOINED), ASKED)
    assert tokens.yes != tokens.no


@pytest.mark.parametrize("style", STYLES)
def test_a_space_before_the_answer_belongs_to_the_answer(style):
    """The commonest mistake: "Answer: " and "Yes" are not the tokens of "Answer: Yes"."""
    tokenizer = tiny_tokenizer(style, sentences=JOINED)
    with pytest.raises(ConditionError, match=r"the tokens ' ' become ' Yes'; .* as ' Yes' after a template without"):
        tokenise(Condition(template="{image}\n{question} Answer: "), tokenizer, ASKED)
    fixed = Condition(template="{image}\n{question} Answer:", answer_yes=" Yes", answer_no=" No")
    assert tokenizer.decode([tokenise(fixed, tokenizer, ASKED).yes]) == " Yes"


def test_only_ways_that_work_are_proposed():
    tokenizer = tiny_tokenizer("sentencepiece")  # never saw "Yes" at the start of a line
    with pytest.raises(
        ConditionError, match=r"it becomes 'Ye' 's'; with this tokenizer it is one as ' Yes' after a tem"
    ):
        tokenise(Condition(), tokenizer, ASKED)
    with pytest.raises(ConditionError, match=r"it becomes 'C' .*; choose another answer word"):
        tokenise(Condition(answer_yes="Certainly"), tiny_tokenizer("qwen"), ASKED)


@pytest.mark.parametrize("template", [RELEASE, "{image}\n{question}\n", "See {image}\n{question}\n"])
@pytest.mark.parametrize("style", STYLES)
def test_a_token_at_the_end_of_every_text_is_refused(style, template):
    """Otherwise the answer would be read after the end of the text."""
    with pytest.raises(ConditionError, match="the tokenizer adds") as caught:
        tokenise(Condition(template=template), tiny_tokenizer(style, eos_at_end=True), ASKED)
    assert "is not exactly one token" not in str(caught.value)


def test_answers_that_the_vocabulary_lacks_or_confuses_are_refused():
    tokenizer = word_tokenizer(["is", "there", "a", "crow", "yes"])
    settings = {"template": "{image} {question} ", "question_singular": "is there {phrase}", "answer_yes": "yes"}
    with pytest.raises(ConditionError, match="'no' has no token of its own in this vocabulary"):
        tokenise(Condition(**settings, answer_no="no"), tokenizer, [("a crow", "singular")])
    with pytest.raises(ConditionError, match="have the same token"):
        tokenise(Condition(**settings, answer_no=" yes"), tokenizer, [("a crow", "singular")])
