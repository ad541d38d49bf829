"""What a study may have to cite, and which models need which citation."""

# key -> (in the text, in the list)
REFERENCES = {
    "paper": (
        "Xu et al., 2026",
        "Xu, T., Sandoval-Castañeda, M., Livescu, K., Shakhnarovich, G., & Misra, K. (2026). Cross-Modal Taxonomic "
        "Generalization in (Vision-)Language Models. In Proceedings of the 64th Annual Meeting of the Association for "
        "Computational Linguistics (Volume 1: Long Papers), pp. 16319–16337. arXiv:2603.07474.",
    ),
    "things": (
        "Hebart et al., 2019",
        "Hebart, M. N., Dickter, A. H., Kidder, A., Kwok, W. Y., Corriveau, A., Van Wicklin, C., & Baker, C. I. "
        "(2019). THINGS: A database of 1,854 object concepts and more than 26,000 naturalistic object images. PLOS "
        "ONE, 14(10), e0223792.",
    ),
    "thingsplus": (
        "Stoinski et al., 2024",
        "Stoinski, L. M., Perkuhn, J., & Hebart, M. N. (2024). THINGSplus: New norms and metadata for the THINGS "
        "database of 1854 object concepts and 26,107 natural object images. Behavior Research Methods, 56, 1583–1603.",
    ),
    "dinov2": (
        "Oquab et al., 2024",
        "Oquab, M., Darcet, T., Moutakanni, T., et al. (2024). DINOv2: Learning Robust Visual Features without "
        "Supervision. Transactions on Machine Learning Research. arXiv:2304.07193.",
    ),
    "registers": (
        "Darcet et al., 2024",
        "Darcet, T., Oquab, M., Mairal, J., & Bojanowski, P. (2024). Vision Transformers Need Registers. In "
        "International Conference on Learning Representations. arXiv:2309.16588.",
    ),
    "siglip": (
        "Zhai et al., 2023",
        "Zhai, X., Mustafa, B., Kolesnikov, A., & Beyer, L. (2023). Sigmoid Loss for Language Image Pre-Training. In "
        "IEEE/CVF International Conference on Computer Vision. arXiv:2303.15343.",
    ),
    "qwen3": (
        "Yang et al., 2025",
        "Yang, A., Li, A., Yang, B., et al. (2025). Qwen3 Technical Report. arXiv:2505.09388.",
    ),
    "llama3": (
        "Grattafiori et al., 2024",
        "Grattafiori, A., Dubey, A., Jauhri, A., et al. (2024). The Llama 3 Herd of Models. arXiv:2407.21783.",
    ),
    "adamw": (
        "Loshchilov & Hutter, 2019",
        "Loshchilov, I., & Hutter, F. (2019). Decoupled Weight Decay Regularization. In International Conference on "
        "Learning Representations. arXiv:1711.05101.",
    ),
    "tost": (
        "Schuirmann, 1987",
        "Schuirmann, D. J. (1987). A comparison of the two one-sided tests procedure and the power approach for "
        "assessing the equivalence of average bioavailability. Journal of Pharmacokinetics and Biopharmaceutics, 15, "
        "657–680.",
    ),
    "lme4": (
        "Bates et al., 2015",
        "Bates, D., Mächler, M., Bolker, B., & Walker, S. (2015). Fitting linear mixed-effects models using lme4. "
        "Journal of Statistical Software, 67(1), 1–48.",
    ),
    "satterthwaite": (
        "Kuznetsova et al., 2017",
        "Kuznetsova, A., Brockhoff, P. B., & Christensen, R. H. B. (2017). lmerTest package: Tests in linear mixed "
        "effects models. Journal of Statistical Software, 82(13), 1–26.",
    ),
}


def in_text(*keys: str) -> str:
    """The citation of `keys` in brackets: "(Oquab et al., 2024; Darcet et al., 2024)"."""
    return f"({'; '.join(REFERENCES[key][0] for key in keys)})"


def cited_in(text: str) -> tuple[str, ...]:
    """References in full of all that `text` cites, in the order of the alphabet."""
    cited = [full for short, full in REFERENCES.values() if short in text or short.replace(", 20", " (20") in text]
    return tuple(sorted(cited))


def encoder_keys(name: str) -> list[str]:
    """What an encoder of this name (weights of timm or Hugging Face) is published in; [] when not known."""
    name = name.lower()
    keys = ["dinov2"] if "dinov2" in name else []
    keys += ["registers"] if keys and ("reg4" in name or "registers" in name) else []
    return keys + (["siglip"] if "siglip" in name and "siglip2" not in name else [])


def lm_keys(name: str) -> list[str]:
    """What an LM of this Hugging Face name is published in; [] when not known."""
    name = name.rsplit("/", 1)[-1].lower()
    return ["qwen3"] if name.startswith("qwen3-") else ["llama3"] if name.startswith("llama-3") else []
