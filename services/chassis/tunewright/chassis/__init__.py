"""How a service runs. Imports only the stubs and `artifacts`; knows no one service."""
