"""Random faults from a seed over a whole system, and an auditor of what every client got."""
