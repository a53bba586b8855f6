"""`FigureCollector`: the figures of a process as Prometheus's client has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from streams.telemetry.figures import Figure
from streams.telemetry.latency import LatencyHistogram
from streams.telemetry.metric_table import METRICS, Metric

__all__ = ["FigureCollector"]

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class FigureCollector(Collector):
    """Reads the figures of a process when Prometheus asks for them, and never otherwise.

    Args:
        read: returns the figures; called in the thread of the request.

    Raises:
        KeyError: a figure is of no metric of the table, or lacks a label of it.
    """

    def __init__(self, read: Callable[[], Iterable[Figure]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Family]:
        """The metrics with their samples."""
        families: dict[str, Family] = {}
        for figure in self._read():
            metric = METRICS[f"hotstream_{figure.name}"]
            if figure.value is None:
                continue
            if metric.name not in families:
                families[metric.name] = _make_family(metric)
            _add(families[metric.name], [str(figure.labels[name]) for name in metric.labels], figure.value)
        yield from families.values()


def _make_family(metric: Metric) -> Family:
    kind = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}[metric.kind]
    family: Family = kind(metric.name, metric.help, labels=metric.labels)
    return family


def _add(family: Family, labels: list[str], value: float | LatencyHistogram) -> None:
    if isinstance(value, LatencyHistogram):
        assert isinstance(family, HistogramMetricFamily)  # noqa: S101  the table calls it one
        buckets, sum_s = value.buckets()
        family.add_metric(labels, buckets, sum_s)
    else:
        assert not isinstance(family, HistogramMetricFamily)  # noqa: S101
        family.add_metric(labels, float(value))
