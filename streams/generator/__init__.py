"""A generator of Criteo-like click logs of any size, with parameters fitted to the head of the real log.

It models, each with parameters of Criteo Kaggle:

- 26 categorical fields with the real cardinalities (times a scale), the real frequencies of their most frequent
  values, and a Zipf-Mandelbrot tail fitted per field: the number of distinct values, the share of values that occur
  once, and the share of lookups of the most frequent values are those of the real head;
- missing values, jointly for columns that are missing in the same rows;
- 13 dense columns of integer counts with the real quantiles, means and shares of missing values;
- labels from a hidden teacher model (`teacher`): a weight per value, latent pairs of fields, a dense part, and the real
  click rate;
- drift by day: pairs of values swap their popularity at random times, so that unseen values appear about as often as
  in the real log;
- optionally, an abrupt rotation: values of large vocabularies that receive half of all lookups get new identities, and
  so new tokens and new weights, at one row.

It does not model: dependence between the columns of a row (in the real log C3, C12, C16 and C21 almost determine each
other, and counts correlate with values; here columns are independent given which are missing); users and sessions;
bursts and hours of the day; campaigns; a click rate that varies by day; real tokens. Consecutive occurrences of a tail
value are independent; in a real log they cluster in time.
"""

from __future__ import annotations

from streams.generator.blocks import Generator, GeneratorConfig, RowBlock
from streams.generator.teacher import TeacherConfig

__all__ = ["Generator", "GeneratorConfig", "RowBlock", "TeacherConfig"]
