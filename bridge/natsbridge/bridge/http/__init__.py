"""What is asked over HTTP: admin, tickets, health. FastAPI; delivery never comes through here."""
