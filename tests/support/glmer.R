# Simulates the three fixtures of glmer_data.csv.gz and fits them with lme4; tests read the CSV files and need no R.
#   Rscript tests/support/glmer.R    writes glmer_data.csv.gz and glmer_fits.csv beside itself
# Recorded with R 4.2.2 and lme4 1.1-31 (glmer, nAGQ = 1, bobyqa).
library(lme4)
set.seed(16)

# Runs of two conditions ask the same images about the categories; every image belongs to a leaf.
draw <- function(name, categories, leaves, images, runs, asked, sd) {
  image <- data.frame(image = seq_len(leaves * images), leaf = rep(seq_len(leaves), each = images))
  d <- do.call(rbind, lapply(seq_len(nrow(image)), function(i) {
    data.frame(image = image$image[i], leaf = image$leaf[i], category = sample(categories, asked))
  }))
  truth <- matrix(runif(leaves * categories) < 0.5, leaves, categories)
  d$gold <- ifelse(truth[cbind(d$leaf, d$category)], 0.5, -0.5)
  d <- merge(d, data.frame(run = seq_len(2 * runs), condition = rep(c(0.5, -0.5), each = runs)))
  effect <- function(by, size) rnorm(max(by), 0, size)[by]
  eta <- -0.4 + 1.5 * d$gold + 0.2 * d$condition + 1.0 * d$gold * d$condition +
    effect(d$category, sd[1]) + effect(d$category, sd[2]) * d$gold + effect(d$category, sd[3]) * d$gold * d$condition +
    effect(d$leaf, sd[4]) + effect(d$image, sd[5]) + effect(d$run, sd[6]) + effect(d$run, sd[7]) * d$gold
  d$yes <- as.integer(runif(nrow(d)) < plogis(eta))
  cbind(fixture = name, d[, c("yes", "gold", "condition", "category", "leaf", "image", "run")])
}

fixtures <- list(
  small = draw("small", 8, 10, 4, 3, 3, c(0.8, 1.0, 0.8, 0.6, 0.8, 0.4, 0.6)),
  middle = draw("middle", 13, 20, 6, 3, 3, c(0.9, 1.2, 0.9, 0.5, 0.5, 0.5, 0.7)),
  large = draw("large", 20, 25, 5, 4, 5, c(0.7, 1.1, 0.8, 0.4, 0.9, 0.3, 0.5))
)
formulas <- list(
  small = yes ~ gold * condition + (1 + gold || category) + (1 | leaf) + (1 | image) + (1 | run),
  middle = yes ~ gold * condition + (1 + gold + gold:condition || category) + (1 | leaf) + (1 | image) + (1 + gold || run),
  large = yes ~ gold * condition + (1 + gold + condition + gold:condition || category) + (1 + gold || leaf) + (1 | image) +
    (1 + gold || run)
)

fits <- do.call(rbind, lapply(names(fixtures), function(name) {
  control <- glmerControl(optimizer = "bobyqa", optCtrl = list(maxfun = 1e5, rhoend = 1e-8), tolPwrss = 1e-11)
  time <- system.time(fit <- glmer(formulas[[name]], fixtures[[name]], binomial, control = control, nAGQ = 1))
  cat(name, nrow(fixtures[[name]]), "rows,", time[["elapsed"]], "s\n")
  beta <- summary(fit)$coefficients
  sds <- as.data.frame(VarCorr(fit))
  rbind(
    data.frame(fixture = name, part = "fixed", group = "", term = rownames(beta), value = beta[, 1], se = beta[, 2]),
    data.frame(fixture = name, part = "sd", group = sub("\\.[0-9]+$", "", sds$grp), term = sds$var1, value = sds$sdcor, se = NA),
    data.frame(fixture = name, part = "deviance", group = "", term = "", value = -2 * as.numeric(logLik(fit)), se = NA)
  )
}))

here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
write.csv(do.call(rbind, fixtures), gzfile(file.path(here, "glmer_data.csv.gz")), row.names = FALSE, quote = FALSE)
fits$value <- signif(fits$value, 8)
fits$se <- signif(fits$se, 8)
write.csv(fits, file.path(here, "glmer_fits.csv"), row.names = FALSE, quote = FALSE, na = "")
