"""The study's mixed models as an R script with its data, so that a reader can repeat them with lme4.

Formulas and rows are those of the fits themselves. lme4's syntax is ours, so nothing is translated.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.statistics.models import Fitted
from cachegen.common.files import write_text

HEAD = """# The mixed models of this study, repeated with lme4, lmerTest and emmeans: Rscript models.R
# install.packages(c("lme4", "lmerTest", "emmeans"))
# data.csv has the rows of all models; its column "model" tells them apart.
library(lme4)
library(lmerTest)
library(emmeans)
emm_options(lmer.df = "satterthwaite")
rows <- read.csv("data.csv", colClasses = "character", na.strings = "")
rows_of <- function(number, numbers, factors) {
  part <- rows[rows$model == number, c(numbers, factors), drop = FALSE]
  for (name in numbers) part[[name]] <- as.numeric(part[[name]])
  for (name in factors) part[[name]] <- factor(part[[name]])
  part
}
# lme4's default optimiser stops a little early on some of these; bobyqa finds the optimum that crosstax reports.
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(maxfun = 1e6))
"""


def write_r(models: Sequence[Fitted], out: Path) -> Path:
    """Write `out`/r/models.R and `out`/r/data.csv; return the script's path. There may be none to repeat."""
    script, data = r_script(models)
    write_text(out / "r" / "data.csv", data.to_csv(index=False, lineterminator="\n"))
    write_text(out / "r" / "models.R", script)
    return out / "r" / "models.R"


def r_script(models: Sequence[Fitted]) -> tuple[str, pd.DataFrame]:
    """The script, and its data: the columns that any formula names, beside the number of the model."""
    every = [each for fitted in models for each in (fitted, fitted.reduced) if each is not None]
    parts, tables = [HEAD], []
    for number, fitted in enumerate((each for each in every if each.model is not None), 1):
        assert fitted.model is not None
        tables.append(fitted.model.data.assign(model=number))
        parts.append(_model(number, fitted, fitted.model.data))
    data = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=["model"])
    return "\n".join(parts), data[["model", *sorted(set(data.columns) - {"model"})]]


def _model(number: int, fitted: Fitted, data: pd.DataFrame) -> str:
    numbers = [str(name) for name in data if pd.api.types.is_numeric_dtype(data[name])]
    factors = [str(name) for name in data if name not in numbers]
    about = ", ".join(filter(None, (fitted.about["question"], fitted.about["comparison"], fitted.about["setup"])))
    lines = [
        f"# Model {number}. {' '.join(about.split())} ({fitted.about['status']})",
        f"rows_{number} <- rows_of({number}, {_names(numbers)}, {_names(factors)})",
        f"model_{number} <- lmer({fitted.formula}, data = rows_{number}, REML = TRUE, control = control)",
        f"print(summary(model_{number}))",
    ]
    for term, (unit, _, _) in fitted.steps.items():
        if unit == "points" and term in numbers:  # two cells, coded +0.5 and -0.5
            levels = f"at = list({term} = c(0.5, -0.5))"
            lines += [
                f"difference_{number} <- pairs(emmeans(model_{number}, ~ {term}, {levels}))",
                f"print(summary(difference_{number}, infer = TRUE))",
                f'print(test(difference_{number}, side = "equivalence", delta = 5))',
            ]
    return "\n".join(lines) + "\n"


def _names(names: Sequence[str]) -> str:
    """A vector of R strings, empty for none."""
    return f"c({json.dumps(list(names))[1:-1]})" if names else "character(0)"
