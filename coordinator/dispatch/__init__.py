"""Sending one layer's rows to the hosts of their experts, and summing what comes back."""
