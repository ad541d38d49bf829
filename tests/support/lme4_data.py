"""Small data sets of R's lme4, typed in: public facts whose sources lme4's help pages name.

sleepstudy: Belenky et al. (2003). Penicillin, Dyestuff, Pastes: Davies & Goldsmith (1972). Dyestuff2: Box & Tiao.
The published REML criterion is the checksum of the digits typed here (test_mixed_effects.py).
"""

import pandas as pd

# Reaction time (ms) on days 0 to 9 of 18 sleep-deprived subjects.
_SLEEP = """
308 249.5600 258.7047 250.8006 321.4398 356.8519 414.6901 382.2038 290.1486 430.5853 466.3535
309 222.7339 205.2658 202.9778 204.7070 207.7161 215.9618 213.6303 217.7272 224.2957 237.3142
310 199.0539 194.3322 234.3200 232.8416 229.3074 220.4579 235.4208 255.7511 261.0125 247.5153
330 321.5426 300.4002 283.8565 285.1330 285.7973 297.5855 280.2396 318.2613 305.3495 354.0487
331 287.6079 285.0000 301.8206 320.1153 316.2773 293.3187 290.0750 334.8177 293.7469 371.5811
332 234.8606 242.8118 272.9613 309.7688 317.4629 309.9976 454.1619 346.8311 330.3003 253.8644
333 283.8424 289.5550 276.7693 299.8097 297.1710 338.1665 332.0265 348.8399 333.3600 362.0428
334 265.4731 276.2012 243.3647 254.6723 279.0244 284.1912 305.5248 331.5229 335.7469 377.2990
335 241.6083 273.9472 254.4907 270.8021 251.4519 254.6362 245.4523 235.3110 235.7541 237.2466
337 312.3666 313.8058 291.6112 346.1222 365.7324 391.8385 404.2601 416.6923 455.8643 458.9167
349 236.1032 230.3167 238.9256 254.9220 250.7103 269.7744 281.5648 308.1020 336.2806 351.6451
350 256.2968 243.4543 256.2046 255.5271 268.9165 329.7247 379.4445 362.9184 394.4872 389.0527
351 250.5265 300.0576 269.8939 280.5891 271.8274 304.6336 287.7466 266.5955 321.5418 347.5655
352 221.6771 298.1939 326.8785 346.8555 348.7402 352.8287 354.4266 360.4326 375.6406 388.5417
369 271.9235 268.4369 257.2424 277.6566 314.8222 317.2135 298.1353 348.1229 340.2800 366.5131
370 225.2640 234.5235 238.9008 240.4730 267.5373 344.1937 281.1481 347.5855 365.1630 372.2288
371 269.8804 272.4428 277.8989 281.7895 279.1705 284.5120 259.2658 304.6306 350.7807 369.4692
372 269.4117 273.4740 297.5968 310.6316 287.1726 329.6076 334.4818 343.2199 369.1417 364.1236
"""

# Diameter (mm) of growth inhibition of samples A to F on plates a to x.
_PENICILLIN = """
27 23 26 23 23 21 | 27 23 26 23 23 21 | 25 21 25 24 24 20 | 26 23 25 23 23 20 | 25 22 26 22 23 20 | 24 22 25 23 22 19
24 20 23 21 22 19 | 26 22 26 24 24 21 | 24 21 24 22 22 20 | 24 21 24 23 22 19 | 26 23 26 24 24 21 | 25 22 26 24 24 20
26 24 26 24 25 22 | 26 23 26 23 23 20 | 26 23 25 24 24 22 | 25 22 25 23 23 20 | 25 21 24 23 23 20 | 25 22 24 23 23 19
24 21 23 21 21 19 | 26 23 26 24 24 21 | 25 21 24 22 22 18 | 25 22 25 22 22 20 | 24 21 24 22 24 19 | 24 21 24 22 21 18
"""

# Yield of dyestuff (grams of standard colour), five preparations of each of six batches; and the made-up Dyestuff2.
_DYESTUFF = """
1545 1440 1440 1520 1580 | 1540 1555 1490 1560 1495 | 1595 1550 1605 1510 1560
1445 1440 1595 1465 1545 | 1595 1630 1515 1635 1625 | 1520 1455 1450 1480 1445
"""
_DYESTUFF2 = """
7.298 3.846 2.434 9.566 7.990 | 5.220 6.556 0.608 11.788 -0.892 | 0.110 10.386 13.434 5.510 8.166
2.212 4.852 7.092 9.288 4.980 | 0.282 9.014 4.458 9.446 7.198 | 1.722 4.782 8.106 0.758 3.758
"""

# Strength of a paste, two tests of each of casks a, b, c of batches A to J.
_PASTES = """
62.8 62.6 60.1 62.3 62.7 63.1 | 60.0 61.4 57.5 56.9 61.1 58.9 | 58.7 57.5 63.9 63.1 65.4 63.7
57.1 56.4 56.9 58.6 64.7 64.5 | 55.1 55.1 54.7 54.2 58.8 57.5 | 63.4 64.9 59.3 58.1 60.5 60.0
62.5 62.6 61.0 58.7 56.9 57.7 | 59.2 59.4 65.2 66.0 64.8 64.1 | 54.8 54.8 64.0 64.0 57.7 56.8
58.3 59.3 59.2 59.2 58.9 56.6
"""


def sleepstudy() -> pd.DataFrame:
    rows = [line.split() for line in _SLEEP.strip().splitlines()]
    return pd.DataFrame(
        [(subject, day, float(ms)) for subject, *times in rows for day, ms in enumerate(times)],
        columns=["Subject", "Days", "Reaction"],
    )


def penicillin() -> pd.DataFrame:
    return _grid(_PENICILLIN, "plate", "sample", "diameter")


def dyestuff() -> pd.DataFrame:
    return _grid(_DYESTUFF, "Batch", "number", "Yield")


def dyestuff2() -> pd.DataFrame:
    return _grid(_DYESTUFF2, "Batch", "number", "Yield")


def pastes() -> pd.DataFrame:
    table = _grid(_PASTES, "batch", "number", "strength")
    return table.assign(cask=table["number"] // 2)


def _grid(text: str, row: str, column: str, value: str) -> pd.DataFrame:
    """One row of the table per number; rows are separated by bars or line ends."""
    rows = [part.split() for line in text.strip().splitlines() for part in line.split("|")]
    return pd.DataFrame(
        [(chr(ord("a") + i), j, float(number)) for i, numbers in enumerate(rows) for j, number in enumerate(numbers)],
        columns=[row, column, value],
    )
