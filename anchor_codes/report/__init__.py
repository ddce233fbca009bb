"""A table or a training run as one HTML page that needs no network.

Needs altair, vl-convert-python and jinja2, which the extra `report` installs.
"""

from anchor_codes.report.writing import write_report, write_run_report

__all__ = ["write_report", "write_run_report"]
