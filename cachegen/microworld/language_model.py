"""A tiny Qwen3-architecture LM and its word-level tokenizer, trained on a world's generated text only."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Config

from cachegen.common.random_init import random_init_lm
from cachegen.common.rng import generator, stream_seed
from cachegen.microworld.corpus import END, STATEMENT_TOKENS, Corpus
from cachegen.microworld.lexicon import Lexicon
from cachegen.microworld.recipe import LanguageRecipe

UNKNOWN, PADDING = "<unk>", "<pad>"
HELD_OUT_LENGTHS = (1, 4, 8, 16)


def make_tokenizer(lexicon: Lexicon) -> PreTrainedTokenizerFast:
    """One token per word, split at white space; no beginning-of-text token, like Qwen3."""
    words = [PADDING, END, UNKNOWN, *lexicon.vocabulary]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PADDING, eos_token=END, unk_token=UNKNOWN)


def lm_config(recipe: LanguageRecipe, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """Configuration shared by the trained LM and its random twins."""
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=recipe.mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        head_dim=recipe.head_dim,
        initializer_range=recipe.init_range,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def train_lm(
    config: Qwen3Config, corpus: Corpus, recipe: LanguageRecipe, seed: int, advance: Callable[[int], None]
) -> tuple[Any, dict[str, Any]]:
    """Train on fresh scenes and statements at every step; return (model in eval mode, facts about the training).

    Initial weights and the stream of text depend on the seed only, so models of one world differ by their text alone.
    """
    model = random_init_lm(config, stream_seed(seed, "lm weights")).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, cycle_momentum=False
    )
    rng = generator(seed, "lm text")
    losses = []
    for _ in range(recipe.steps):
        scenes = corpus.scenes(recipe.scenes, int(rng.integers(1, corpus.recipe.longest + 1)), rng)
        answers = nn.functional.cross_entropy(
            answer_logits(model, scenes.words, scenes.questions),
            torch.from_numpy(scenes.answers).flatten(),
            reduction="sum",
        )
        text_BT = torch.from_numpy(corpus.statements(recipe.statements, rng))
        next_words = model(input_ids=text_BT[:, :-1], use_cache=False).logits
        said = nn.functional.cross_entropy(next_words.flatten(0, 1), text_BT[:, 1:].flatten(), reduction="sum")
        loss = (answers + said) / (scenes.answers.size + recipe.statements * (STATEMENT_TOKENS - 1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append((answers / scenes.answers.size).item())
        advance(1)
    model.eval()
    tail = max(1, recipe.steps // 10)
    return model, {"first_answer_loss": losses[0], "last_answer_loss": sum(losses[-tail:]) / tail}


def save_lm(model: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights, configuration and tokenizer so that AutoModelForCausalLM and AutoTokenizer load them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def answer_logits(model: Any, words: np.ndarray, questions: np.ndarray) -> torch.Tensor:
    """(B * Q, V) logits after each question; questions share their scene and do not see each other."""
    words_BN = torch.from_numpy(words)
    questions_BQT = torch.from_numpy(questions)
    count, asked, length = questions_BQT.shape
    known = words_BN.shape[1]
    tokens_BL = torch.cat([words_BN, questions_BQT.flatten(1)], dim=1)
    block_L = torch.cat([torch.zeros(known), 1 + torch.arange(asked).repeat_interleave(length)])
    order_L = torch.arange(len(block_L))
    sees_LL = (order_L[:, None] >= order_L) & ((block_L == 0) | (block_L[:, None] == block_L))
    mask_LL = torch.zeros(sees_LL.shape).masked_fill(~sees_LL, torch.finfo(torch.float32).min)
    positions_L = torch.cat([torch.arange(known), known + torch.arange(length).repeat(asked)])
    hidden_BLD = model.model(
        input_ids=tokens_BL,
        attention_mask=mask_LL.expand(count, 1, -1, -1),
        position_ids=positions_L.expand(count, -1),
        use_cache=False,
    ).last_hidden_state
    ends_Q = known + length * torch.arange(1, asked + 1) - 1
    return model.lm_head(hidden_BLD[:, ends_Q].flatten(0, 1))


@torch.no_grad()
def examine_lm(model: Any, corpus: Corpus, seed: int) -> dict[str, Any]:
    """Share of right answers on scenes never trained on, by scene length, and of "a crow is a -> bird"."""
    rng = generator(seed, "lm held-out text")
    leaf, hypernym = {}, {}
    for length in HELD_OUT_LENGTHS:
        scenes = corpus.scenes(256, length, rng)
        right = (
            answer_logits(model, scenes.words, scenes.questions).argmax(-1).numpy() == scenes.answers.ravel()
        ).reshape(scenes.answers.shape)
        leaf[str(length)] = float(right[~scenes.about_hypernym].mean())
        hypernym[str(length)] = float(right[scenes.about_hypernym].mean())
    text, true = corpus.taxonomy_statements()
    guess = model(input_ids=torch.from_numpy(text[:, :4]), use_cache=False).logits[:, -1].argmax(-1).numpy()
    facts: dict[str, Any] = {
        "leaf_accuracy_by_words": leaf,
        "hypernym_accuracy_by_words": hypernym,
        "statement_accuracy": float(np.take_along_axis(true, guess[:, None], axis=1).mean()),
    }
    if corpus.recipe.hypernym_words:
        family_only = answer_logits(model, *corpus.family_words_only(8, rng)).argmax(-1)
        facts["yes_to_siblings_from_family_words"] = float((family_only == corpus.vocabulary["yes"]).float().mean())
    return facts
