"""What people look at: the closing table, report.html and the model card, each a view of a RunRecord."""

from hfft.report.files import write_card, write_report
from hfft.report.terminal import make_console, print_metrics

__all__ = ["make_console", "print_metrics", "write_card", "write_report"]
