"""The model card of an exported run: what it is, how to load it, how well it did, where it comes from."""

from collections.abc import Mapping
from typing import Any

GROUPS = {
    "leaf": "leaf categories, all trained on",
    "seen": "hypernyms, of leaves whose hypernym questions were trained on",
    "heldout": "hypernyms, of leaves whose hypernym questions were withheld",
}
ABOUT_REGISTERS = (
    "The encoder has {count} register tokens beside CLS. LLaVA drops CLS alone; the line with "
    "`register_forward_pre_hook` drops the registers. Without it transformers stops: image features and image tokens "
    "do not match.\n\n"
)
CARD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
---

# {run}

A projector trained with crosstax between a frozen image encoder and a frozen language model, which answers yes/no \
questions about categories (Xu et al., 2026, Cross-Modal Taxonomic Generalization in (Vision-)Language Models). It is \
a research object: it was trained on this one form of question.

## Use

```python
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

model = LlavaForConditionalGeneration.from_pretrained("DIRECTORY").eval()
processor = AutoProcessor.from_pretrained("DIRECTORY")
{line}image = Image.open("image.jpg").convert("RGB")
prompt = {example_prompt!r}
inputs = processor(images=image, text=prompt, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0, -1]
p_yes = torch.softmax(logits[[{answer_ids[yes]}, {answer_ids[no]}]], 0)[0].item()  # ids of {condition[answer_yes]!r} \
and {condition[answer_no]!r}
```

{about_registers}Images are resized straight to a square with Pillow, without a crop. The run itself read patch \
features that were rounded to 16 bits, so its saved answers differ from these by that rounding.

## Results

Mean macro F1 over categories, test split, read off the run's saved answers:

| questions about | macro F1 |
| --- | --- |
{scores}

## Provenance

| | |
| --- | --- |
| encoder | {encoder} |
| language model | {lm} ({condition[lm_init]}) |
| labels, ablation | {condition[shuffle]}, {condition[ablation_kind]} {condition[ablation]} |
| seeds (data, run, LM) | {condition[data_seed]}, {condition[run_seed]}, {condition[lm_seed]} |
{hashes}

The whole condition is in `crosstax.json`.

## Licence

Encoder and language model are copies of the models named above and stay under their own licences, which decide \
whether this directory may be passed on. The projector was trained on the dataset's images; mind its terms too.
"""


def model_card(facts: Mapping[str, Any], line: str | None) -> str:
    """Markdown from what `export_llava` records; `line` is the code that registers need after loading."""
    scores = sorted(facts["test_macro_f1"].items())
    return CARD.format(
        **facts,
        line=f"{line}\n" if line else "",
        about_registers=ABOUT_REGISTERS.format(count=facts["registers"]) if facts["registers"] else "",
        scores="\n".join(f"| {GROUPS.get(group, group)} | {score:.1f} |" for group, score in scores),
        encoder=_cell(facts["condition"]["encoder"]),
        lm=_cell(facts["condition"]["lm"]),
        hashes="\n".join(f"| {name}, SHA-256 | {digest} |" for name, digest in sorted(facts["digests"].items())),
    )


def _cell(text: str) -> str:
    """Text that cannot break out of a table cell."""
    return str(text).replace("|", "\\|").replace("\n", " ")
