"""Bad records are logged at most once a second, with the number of those between."""

from __future__ import annotations

import logging
from types import SimpleNamespace

from streams.telemetry.bad_record_log import BadRecordLog


def test_a_flood_of_bad_records_is_one_line_a_second_with_their_number(caplog):
    now_s = 0.0
    log = BadRecordLog(logging.getLogger("test"), clock_s=lambda: now_s)
    for offset in range(2050):
        now_s = offset / 1000
        log.add(SimpleNamespace(topic="t", partition=1, offset=offset), "got \x1b[31m" + "x" * 35_000)
    lines = [record.getMessage() for record in caplog.records]
    assert [line[: line.index(":")] for line in lines] == ["t/1, offset 0", "t/1, offset 1000", "t/1, offset 2000"]
    assert lines[1].endswith("(and 999 more since the last line)")
    assert all(len(line) < 700 and line.isprintable() for line in lines)
