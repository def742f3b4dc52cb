"""What people look at: report.html and the model card, each a view of a RunRecord."""

from hfft.report.files import write_card, write_report

__all__ = ["write_card", "write_report"]
