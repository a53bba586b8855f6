"""Criteo-like click logs of any size, drawn from numbers that were fitted to the head of a real one.

What is modelled, each with Criteo Kaggle's numbers:

- 26 categorical fields with the real cardinalities (times a scale), the real shares of their commonest values and a
  Zipf-Mandelbrot tail fitted per field, so that distinct values, values seen once, and the share of the lookups that
  the commonest take are those of the real head; missing values, jointly where columns are missing together;
- 13 dense columns of integer counts with the real quantiles, means and missing shares;
- labels from a hidden teacher (`teacher`): a weight per value, a few latent pairs, a dense part; the click rate;
- drift by day: values trade popularity at moments of their own, about as fast as the real log meets unseen values;
- on request an abrupt rotation: values that take half of the lookups, all of large vocabularies, get new identities,
  and so new tokens and weights, at once.

What is not: the dependence between the columns of a row (real C3, C12, C16 and C21 all but determine each other, and
counts go with values; here all are independent given what is missing), users and sessions, bursts and hours of the
day, campaigns that start or end together, a click rate that differs from day to day, and any real token. A value that
the tail brings up once is drawn anew each time: nothing follows it around for an hour, as a real one would.
"""

from __future__ import annotations

from streams.generator.blocks import Block, Generator, GeneratorConfig
from streams.generator.teacher import TeacherConfig

__all__ = ["Block", "Generator", "GeneratorConfig", "TeacherConfig"]
