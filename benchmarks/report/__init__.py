"""From a trial's results to a report in Markdown and one in HTML."""

from .write import write_report as write_report
