"""The model card of an exported run: what it is, how to load it, how well it did, where it comes from."""

from collections.abc import Mapping
from typing import Any

GROUPS = {
    "leaf": "leaf categories, all trained on",
    "seen": "hypernyms, of leaves whose hypernym questions were trained on",
    "heldout": "hypernyms, of leaves whose hypernym questions were withheld",
}


def model_card(facts: Mapping[str, Any], line: str | None) -> str:
    """Markdown from what `export_llava` records; `line` is the code that registers need after loading."""
    condition = facts["condition"]
    scores = [
        f"| {GROUPS.get(group, group)} | {score:.1f} |" for group, score in sorted(facts["test_macro_f1"].items())
    ]
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "pipeline_tag: image-text-to-text",
            "---",
            "",
            f"# {facts['run']}",
            "",
            "A projector trained with crosstax between a frozen image encoder and a frozen language model, which "
            "answers yes/no questions about categories (Xu et al., 2026, Cross-Modal Taxonomic Generalization in "
            "(Vision-)Language Models). It is a research object: it was trained on this one form of question.",
            "",
            "## Use",
            "",
            "```python",
            *_code(facts, line),
            "```",
            "",
            *_about_registers(facts["registers"]),
            "Images are resized straight to a square with Pillow, without a crop. The run itself read patch features "
            "that were rounded to 16 bits, so its saved answers differ from these by that rounding.",
            "",
            "## Results",
            "",
            "Mean macro F1 over categories, test split, read off the run's saved answers:",
            "",
            "| questions about | macro F1 |",
            "| --- | --- |",
            *scores,
            "",
            "## Provenance",
            "",
            "| | |",
            "| --- | --- |",
            f"| encoder | {_cell(condition['encoder'])} |",
            f"| language model | {_cell(condition['lm'])} ({condition['lm_init']}) |",
            f"| labels, ablation | {condition['shuffle']}, {condition['ablation_kind']} {condition['ablation']} |",
            f"| seeds (data, run, LM) | {condition['data_seed']}, {condition['run_seed']}, {condition['lm_seed']} |",
            *(f"| {name}, SHA-256 | {digest} |" for name, digest in sorted(facts["digests"].items())),
            "",
            "The whole condition is in `crosstax.json`.",
            "",
            "## Licence",
            "",
            "Encoder and language model are copies of the models named above and stay under their own licences, which "
            "decide whether this directory may be passed on. The projector was trained on the dataset's images; mind "
            "its terms too.",
            "",
        ]
    )


def _code(facts: Mapping[str, Any], line: str | None) -> list[str]:
    yes, no = facts["answer_ids"]["yes"], facts["answer_ids"]["no"]
    return [
        "import torch",
        "from PIL import Image",
        "from transformers import AutoProcessor, LlavaForConditionalGeneration",
        "",
        'model = LlavaForConditionalGeneration.from_pretrained("DIRECTORY").eval()',
        'processor = AutoProcessor.from_pretrained("DIRECTORY")',
        *([line] if line else []),
        'image = Image.open("image.jpg").convert("RGB")',
        f"prompt = {facts['example_prompt']!r}",
        'inputs = processor(images=image, text=prompt, return_tensors="pt")',
        "with torch.no_grad():",
        "    logits = model(**inputs).logits[0, -1]",
        f"p_yes = torch.softmax(logits[[{yes}, {no}]], 0)[0].item()  # ids of {facts['condition']['answer_yes']!r} and "
        f"{facts['condition']['answer_no']!r}",
    ]


def _about_registers(registers: int) -> list[str]:
    if not registers:
        return []
    return [
        f"The encoder has {registers} register tokens beside CLS. LLaVA drops CLS alone; the line with "
        "`register_forward_pre_hook` drops the registers. Without it transformers stops: image features and image "
        "tokens do not match.",
        "",
    ]


def _cell(text: str) -> str:
    """Text that cannot break out of a table cell."""
    return str(text).replace("|", "\\|").replace("\n", " ")
