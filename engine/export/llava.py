"""A finished run as a `LlavaForConditionalGeneration` directory, which transformers loads by itself.

LLaVA is what the run is: patches of the penultimate block through two linear layers with a GELU between, put at an
image token's place. What LLaVA has no form for is refused: three layers, a fused encoder, outputs scaled to an RMS.
Standardisation is folded into the first layer. LLaVA drops one token before the patches at most, and DINOv2's
registers are more: such an export needs one line of code after loading (`registers_line`), without which transformers
stops with an error.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from tokenizers import AddedToken
from torch import nn

from cachegen.common.errors import ConditionError, ModelError, RunError, WriteError
from cachegen.common.files import give_own_modes, new_folder, require_new, write_json, write_text
from cachegen.common.hub import first_line
from cachegen.common.progress import quiet_transformers
from cachegen.data.images import Transform
from cachegen.encoders import Encoder
from engine.ask import question_tokens
from engine.design.condition import Condition
from engine.design.questions import question_text
from engine.export.card import model_card
from engine.export.tower import vision_tower
from engine.lm.loading import load_model
from engine.lm.projector import Projector
from engine.lm.prompts import MARK, PromptTokens
from engine.runs.finished import FinishedRun, open_run
from engine.runs.places import Places

MODELS = ("encoder", "lm")  # fields of a run's recorded condition that may be paths
FEATURE_LAYER = -2  # hidden states count the embedding: this is the penultimate block


def export_llava(
    folder: Path, out: Path, numbers: Mapping[str, float], *, device: str = "auto", given: Places | None = None
) -> dict[str, Any]:
    """Write the run in `folder` to the new directory `out`, whole or not at all; returns what was written.

    `numbers`: mean macro F1 of its test answers by group of categories, for the model card. `given` says where its
    encoder and LM are now, if they have moved. All is float32 but an LM that ran in bfloat16. Raises `RunError`,
    `ModelError` or `ConditionError` with the reason if LLaVA cannot express the run.
    """
    require_new(out)
    run = open_run(folder, given)
    _require_llava(run)
    quiet_transformers()
    c = run.condition
    lm_folder = run.lm[1]
    vision = run.encoder(device)
    if not isinstance(vision.transform, Transform):
        raise ModelError(f"encoder {vision.name} was read with --preprocess own, which is not exported; use paper")
    tower = vision_tower(vision)
    lm, tokenizer = load_model(lm_folder, c.lm_init, c.lm_seed, c.dtype)
    texts = _questions(run)
    tokens, token = question_tokens(c, tokenizer, texts), image_token(c)
    prompts = [prompt_text(c, tokenizer, text, token) for text in texts]
    token_id = add_image_token(tokenizer, token)
    if token_id >= lm.get_input_embeddings().weight.shape[0]:  # no spare row: the image token's own is never read
        lm.resize_token_embeddings(token_id + 1, mean_resizing=False)
    n_prefix = _prefix(vision, tower)
    processor = _processor(tokenizer, vision.transform, tower.config.patch_size, token, n_prefix)
    check_tokens(processor, prompts, tokens, vision.n_patches)
    projector = run.projector(lm.get_input_embeddings().weight.shape[1], torch.float32, embedding_rms=0.0)
    model = _assemble(tower, projector, lm, token_id, vision.n_patches, n_prefix)
    _check_features(model, projector, vision, n_prefix)
    facts = {
        "run": run.id,
        "condition": run.config["condition"] | {name: _public(run.config["condition"][name]) for name in MODELS},
        "digests": run.config["digests"],
        "answer_ids": {"yes": tokens.yes, "no": tokens.no},
        "image_token": token,
        "example_prompt": prompts[0],
        "registers": max(0, n_prefix - 1),
        "test_macro_f1": dict(numbers),
    }
    try:
        with new_folder(out) as aside:
            model.save_pretrained(aside)
            processor.save_pretrained(aside)
            write_json(aside / "crosstax.json", facts)
            write_text(aside / "README.md", model_card(facts, registers_line(n_prefix)))
            give_own_modes(aside)
    except SafetensorError as error:  # as of a full disk
        raise WriteError(f"cannot write {out}: {error}; make room, or choose another folder") from error
    return {"out": str(out), **facts, "line": registers_line(n_prefix)}


def registers_line(n_prefix: int) -> str | None:
    """The line of code that an export with registers needs after loading; None for others."""
    if n_prefix < 2:
        return None
    return f"model.model.multi_modal_projector.register_forward_pre_hook(lambda _, x: (x[0][:, {n_prefix - 1}:],))"


def _questions(run: FinishedRun) -> list[str]:
    """Every question the run was asked, in words, sorted, as their rows are in `PromptTokens`."""
    asked = run.answers("test")[["phrase", "number"]].drop_duplicates().itertuples(index=False, name=None)
    return sorted({question_text(run.condition, phrase, number) for phrase, number in asked})


def _public(name: str) -> str:
    """An id as it is, of a local directory its last part; the digests say which model it is."""
    return Path(name).name if Path(name).is_dir() else name


def _require_llava(run: FinishedRun) -> None:
    c = run.condition
    why = None
    if run.imported:
        why = "its features were imported, so that there is no encoder to export"
    elif c.task == "name":
        why = "it was trained to name (task = 'name'), and the exported model answers yes or no"
    elif c.projector_layers != 2:
        why = f"its projector has {c.projector_layers} layers, LLaVA's has 2"
    elif c.output_scale != "none":
        why = f"it scales the projector's outputs to an RMS (output_scale = {c.output_scale!r}), LLaVA does not"
    elif c.pool > 1:
        why = f"its projector reads means over {c.pool} x {c.pool} patches, LLaVA's reads every patch"
    if why:
        raise RunError(f"{run.directory.path} has no form in LLaVA: {why}; export another run")


def folded(projector: Projector) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (D, V) and bias (D,) of the first layer for features as they are: W (x - m) / s + b = (W / s) x + b'."""
    weight, bias = projector.hidden.weight.double(), projector.hidden.bias.double()
    if isinstance(projector.statistics, torch.Tensor):
        mean, sd = projector.statistics.double()
        weight = weight / sd
        bias = bias - weight @ mean
    return weight.float(), bias.float()


def _assemble(tower: Any, projector: Projector, lm: Any, token_id: int, patches: int, n_prefix: int) -> Any:
    head = lm.get_output_embeddings()
    if head.bias is not None:
        raise ModelError(
            f"{type(lm).__name__} has a bias in its head, which LLaVA has not; export a run with another LM"
        )
    config = transformers.LlavaConfig(
        vision_config=tower.config,
        text_config=lm.config,
        image_token_index=token_id,
        image_seq_length=patches,
        projector_hidden_act="gelu",
        vision_feature_layer=FEATURE_LAYER,
        vision_feature_select_strategy=_strategy(n_prefix),
        multimodal_projector_bias=True,
        tie_word_embeddings=bool(lm.config.tie_word_embeddings),
    )
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    if type(model.model.language_model) is not type(lm.base_model):
        raise ModelError(f"{type(lm).__name__} is no decoder that LLaVA can hold; export a run with another LM")
    model.model.vision_tower, model.model.language_model, model.lm_head = tower, lm.base_model, head
    weight, bias = folded(projector)
    layers = model.model.multi_modal_projector
    layers.linear_1.weight, layers.linear_1.bias = nn.Parameter(weight), nn.Parameter(bias)
    layers.linear_2.weight, layers.linear_2.bias = projector.output.weight, projector.output.bias
    # Also for an LM in bfloat16: loaded with dtype="auto", the encoder would become bfloat16 too.
    for part in (config, config.text_config, config.vision_config):
        part.dtype = torch.float32
    return model.eval()


def _strategy(n_prefix: int) -> str:
    """LLaVA's name for dropping the first token, CLS, or none."""
    return "default" if n_prefix else "full"


def _processor(tokenizer: Any, transform: Transform, patch: int, token: str, n_prefix: int) -> Any:
    """Pillow's own resizing, as our transform: torchvision's differs by one grey level in some pixels."""
    images = transformers.PilBackend(
        do_convert_rgb=True,
        do_resize=True,
        size={"height": transform.size, "width": transform.size},
        resample=transform.resample,
        do_center_crop=False,
        do_rescale=True,
        rescale_factor=1 / 255 if transform.scale is None else transform.scale,
        do_normalize=True,
        image_mean=list(transform.mean),
        image_std=list(transform.std),
    )
    return transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=patch,
        vision_feature_select_strategy=_strategy(n_prefix),
        image_token=token,
        num_additional_image_tokens=min(n_prefix, 1),
    )


@torch.no_grad()
def _prefix(vision: Encoder, tower: Any) -> int:
    """Tokens that the tower has before the patches."""
    size = vision.transform.size
    try:
        tokens = tower(torch.zeros(1, 3, size, size)).last_hidden_state
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"encoder {vision.name} has no form in LLaVA ({first_line(error)})") from error
    if tokens.ndim != 3 or tokens.shape[1] < vision.n_patches:
        raise ModelError(f"encoder {vision.name} has no form in LLaVA: it gives no row of patches")
    return int(tokens.shape[1]) - vision.n_patches


@torch.no_grad()
def _check_features(model: Any, projector: Projector, vision: Encoder, n_prefix: int) -> None:
    """Compare image embeddings of LLaVA with the engine's on noise; raises `ModelError` beyond rounding."""
    size = vision.transform.size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    strict = Encoder(vision.name, vision.models, vision.device, vision.n_patches, vision.width, "float32")
    ours = projector(strict(pixels).patches.cpu())
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[FEATURE_LAYER]
    theirs = model.model.multi_modal_projector(states[:, n_prefix:])
    difference, scale = (ours - theirs).abs().max().item(), ours.abs().max().item()
    if not difference <= 1e-3 * scale:
        raise ModelError(
            f"encoder {vision.name}: as a model of transformers its patches differ ({difference:.2g} of {scale:.2g} in "
            "the LM's input); extract with a Hugging Face id instead"
        )


def image_token(condition: Condition) -> str:
    """A text for the image token that the prompts do not hold already: the release has "<image>" as plain text."""
    return "<image>" if "<image>" not in condition.template else "<|image|>"


def add_image_token(tokenizer: Any, token: str) -> int:
    """Give the tokenizer a special token for the image's place; its id."""
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    return int(tokenizer.convert_tokens_to_ids(token))


def prompt_text(condition: Condition, tokenizer: Any, question: str, token: str) -> str:
    """The template around `question`, with `token` where the patches go: at {image}, else behind the first token.

    `tokenizer` must be the run's own, without an image token.
    """
    marked = condition.template.replace("{question}", question)
    if MARK in marked:
        return marked.replace(MARK, token)
    place = tokenizer(marked, return_offsets_mapping=True)["offset_mapping"][0][1]
    return marked[:place] + token + marked[place:]


def check_tokens(processor: Any, prompts: list[str], tokens: PromptTokens, patches: int) -> None:
    """Raise `ConditionError` unless the processor's ids of every prompt are those that the run was asked with.

    `prompts` are in the order of the rows of `tokens`.
    """
    image = [processor.image_token_id] * patches
    expanded = [text.replace(processor.image_token, processor.image_token * patches) for text in prompts]
    for text, ids, row, length in zip(
        prompts, processor.tokenizer(expanded)["input_ids"], tokens.suffixes, tokens.lengths, strict=True
    ):
        if not np.array_equal(ids, [*tokens.prefix, *image, *row[:length]]):
            raise ConditionError(
                f"with an image token in it, the prompt {text!r} has other tokens than the run was trained with; this "
                "template and tokenizer have no form in LLaVA, put a line break on both sides of {image}"
            )
