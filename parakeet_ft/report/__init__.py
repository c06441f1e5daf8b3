"""What a run says to people: report.json, report.md, report.html."""
