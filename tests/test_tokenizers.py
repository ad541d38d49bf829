"""Prompts in the tokenizers of several families: with and without a first token, answers, and what is refused."""

import json
import re

import pytest
from small_study import word_tokenizer
from tiny import SENTENCES, STYLES, tiny_tokenizer
from transformers import AutoTokenizer

from cachegen.common.errors import ConditionError
from engine.design.condition import Condition
from engine.design.questions import question_text
from engine.lm.prompts import tokenise

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


def test_a_token_at_the_end_can_be_taken_off_as_the_message_says(tmp_path):
    tiny_tokenizer("qwen", eos_at_end=True).save_pretrained(tmp_path)
    with pytest.raises(ConditionError, match=r"remove it from post_processor in its tokenizer.json"):
        tokenise(Condition(), AutoTokenizer.from_pretrained(tmp_path), ASKED)
    parts = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts | {"post_processor": None}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.decode([tokenise(Condition(), tokenizer, ASKED).yes]) == "Yes"


@pytest.mark.parametrize("end", ["picture", "unknown"])
@pytest.mark.parametrize("special", [False, True])
def test_an_unknown_answer_is_no_token_that_the_tokenizer_adds(special, end):
    """Also where the prompt itself ends in an unknown word, and the unknown token is special or not."""
    tokenizer = word_tokenizer(["is", "there", "a", "crow", "yes", "no", "picture"])
    if not special:
        tokenizer._tokenizer.add_tokens(["<unk>"])
    settings = {"template": f"{{image}} {{question}} {end} ", "question_singular": "is there {phrase}"}
    for yes, no in (("Maybe", "no"), ("yes", "Never")):
        with pytest.raises(
            ConditionError, match="has no token of its own in this vocabulary; choose another"
        ) as caught:
            tokenise(Condition(**settings, answer_yes=yes, answer_no=no), tokenizer, [("a crow", "singular")])
        assert repr("Maybe" if yes == "Maybe" else "Never") in str(caught.value)
    assert tokenise(Condition(**settings, answer_yes="yes", answer_no="no"), tokenizer, [("a crow", "singular")]).rows


@pytest.mark.parametrize("style", STYLES)
def test_special_tokens_in_a_phrase_are_refused_and_in_a_template_meant(style):
    """In "a <|endoftext|> crow" the LM would see the end of a text; chat signs around a question are its form."""
    tokenizer = tiny_tokenizer(style)
    sign = STYLES[style][1] or "<|endoftext|>"
    answers = {"answer_yes": " Yes", "answer_no": " No"} if style == "sentencepiece" else {}
    for phrase in (f"a {sign} crow", sign, f"a crow{sign}"):
        with pytest.raises(ConditionError, match=re.escape(f"holds {sign!r}, a special token")):
            tokenise(Condition(**answers), tokenizer, [*ASKED, (phrase, "singular")])
    template = "{image}\n" + sign + "{question}\n"
    tokens = tokenise(Condition(template=template, **answers), tokenizer, ASKED)
    assert (tokens.suffixes == tokenizer.convert_tokens_to_ids(sign)).any(axis=1).all()
    tokenise(Condition(**answers), tokenizer, [*ASKED, ("a < crow > of </ s >", "singular")])


def test_answers_that_the_vocabulary_lacks_or_confuses_are_refused():
    tokenizer = word_tokenizer(["is", "there", "a", "crow", "yes"])
    settings = {"template": "{image} {question} ", "question_singular": "is there {phrase}", "answer_yes": "yes"}
    with pytest.raises(ConditionError, match="'no' has no token of its own in this vocabulary"):
        tokenise(Condition(**settings, answer_no="no"), tokenizer, [("a crow", "singular")])
    with pytest.raises(ConditionError, match="have the same token"):
        tokenise(Condition(**settings, answer_no=" yes"), tokenizer, [("a crow", "singular")])
