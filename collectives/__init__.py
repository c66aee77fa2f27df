"""Bytes between ranks: collectives as schedules, and a communicator that runs them."""
